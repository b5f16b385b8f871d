"""The number of token ids that a run's data has."""

from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import load_tokenizer


def fit_vocabulary(run: RunConfig) -> ModelShape:
    """Return the run's model with its data's vocabulary: the tokenizer's, or the residues and the sign = of arithmetic.

    Raises UserError when its own is smaller.
    """
    if modulus := run.arithmetic.modulus:
        least, of = modulus + 1, f"the {modulus + 1} signs of arithmetic.modulus {modulus}"
    else:
        least = load_tokenizer(run.tokenizer.kind, run.tokenizer.path).vocab_size
        of = f"the tokenizer's vocabulary of {least}"
    wanted = run.model.vocab_size or least
    if wanted < least:
        raise UserError(f"model.vocab_size: {wanted} is smaller than {of}; leave it out, or give at least that many")
    return run.model.of_vocabulary(wanted)
