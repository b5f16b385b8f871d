"""How long a run takes at a speed: its own length, and epochs of its corpus."""

from pathlib import Path

from genesis_ds.config import RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.data.token_set import find_token_set
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.load import weights
from genesis_ds.tokenizer import load_tokenizer

EPOCHS = 10_000
"""Epochs of which the time is told where a run's length is not given in epochs."""
SECONDS_PER_DAY = 86_400


def duration_line(run: RunConfig, tokens_per_second: float) -> str:
    """Return how many days the run's epochs take, and its steps where it has a number of them."""
    batch, n_epochs = run.batch, run.max_epochs or EPOCHS
    n_tokens = run.max_tokens or (run.max_steps or 0) * batch.global_batch_size * batch.seq_len
    own = f"the run's {n_tokens:,} tokens: {_days(n_tokens, tokens_per_second)}; " if n_tokens else ""
    try:
        per_epoch = tokens_per_epoch(run)
    except UserError as error:
        return f"{own}how long {n_epochs:,g} epochs take is not known: {error}"
    days = _days(n_epochs * per_epoch, tokens_per_second)
    return f"{own}{n_epochs:,g} epochs of this corpus: {days} at {tokens_per_second:,.0f} tokens/s"


def tokens_per_epoch(run: RunConfig) -> float:
    """Return the tokens of all tasks in an epoch of language modelling.

    Raises UserError in a run without it, and for a corpus of which no token set has been compiled.
    """
    of = weights(run)
    if LM not in of:
        raise UserError("epochs are of the task lm, which this run leaves out")
    config = run.arithmetic
    if config.modulus:
        table = arithmetic_table(config.modulus, config.operation, config.train_share, config.split_seed)
        return len(table.train) * run.batch.seq_len
    corpus = load_corpus(run.data.corpus)
    token_set = find_token_set(
        corpus,
        run.data.languages,
        tokenizer=load_tokenizer(run.tokenizer.kind, run.tokenizer.path),
        split=split_verses(corpus, run.data.split_seed),
        root=Path(run.data.token_sets),
    )
    if token_set is None:
        raise UserError(f"{run.data.corpus} has not been compiled into tokens; the first run on it does that")
    n_tokens = sum(tiers["train"] for tiers in token_set.manifest.tokens.values())
    return n_tokens * sum(of.values()) / of[LM]


def _days(n_tokens: float, tokens_per_second: float) -> str:
    days = n_tokens / tokens_per_second / SECONDS_PER_DAY
    return f"{days:,.0f} days" if days >= 10 else f"{days:.2f} days"
