"""The model of an earlier TOML: the shape of its mode, what [model] overrides, sequences and vocabulary."""

from genesis_ds.config.convert.earlier_toml import EarlierToml, Key
from genesis_ds.config.convert.outcome import Outcome
from genesis_ds.errors import UserError, nearest

SIZES = ("n_layers", "dim", "n_heads", "intermediate_size")
MODES = {
    "standard": dict(zip(SIZES, (12, 512, 8, 2048), strict=True)),
    "microscope": dict(zip(SIZES, (144, 288, 12, 768), strict=True)),
    "deep_narrow_40": dict(zip(SIZES, (40, 384, 12, 1536), strict=True)),
}
"""Mode of the newest trainer -> its shape. Earlier ones gave these names, and others, to other shapes."""
DEFAULT_MODE, DEFAULT_SEQ_LEN = "standard", 512
"""What the newest trainer takes where a TOML does not say it."""
BYTES = 260
"""Ids of the byte tokenizer, there as here."""
SAMPLE_PROMPT = 32
"""Tokens of samples.prompt_tokens."""


def mode(key: Key, toml: EarlierToml) -> Outcome:
    """Return the sizes of a mode that [model] does not give. Raises UserError where nobody knows them."""
    missing = _missing(toml)
    if not missing:
        return Outcome(note="[model] gives all sizes, and overrides the mode")
    if not isinstance(key.value, str) or key.value not in MODES:
        raise UserError(
            f"{toml.where(key.dotted)}: {key.dotted}: the shape of the mode {key.value!r} is not known here "
            f"({nearest(str(key.value), MODES)}); write {', '.join(missing)} into [model]"
        )
    shape = MODES[key.value]
    name = f"{shape['n_layers']} x {shape['dim']} in the newest trainer; presets here are named by their shape"
    return Outcome({f"model.{size}": shape[size] for size in missing}, name)


def unsaid_sizes(toml: EarlierToml) -> Outcome | None:
    """Return the sizes that the newest trainer takes where neither a mode nor [model] gives them.

    Raises UserError for a file of the first trainer, which has no such defaults.
    """
    missing = _missing(toml)
    if not missing or toml.find("mode"):
        return None
    if toml.is_of_first_trainer:
        raise UserError(f"{toml.path}: [model] does not say {', '.join(missing)}; write them there")
    sizes = {f"model.{size}": MODES[DEFAULT_MODE][size] for size in missing}
    return Outcome(sizes, f"of the mode {DEFAULT_MODE}, which the newest trainer takes where none is given")


def _missing(toml: EarlierToml) -> list[str]:
    return [size for size in SIZES if toml.find(size, "model") is None]


def intermediate_size(key: Key, toml: EarlierToml) -> Outcome:
    """Return the width of the feed-forward layer; auto is four times the model's."""
    if key.value != "auto":
        return Outcome({"model.intermediate_size": key.value})
    dim = toml.get("dim", "model")
    if not isinstance(dim, int):
        raise UserError(f"{toml.where(key.dotted)}: intermediate_size: auto needs dim in [model]; write it there")
    return Outcome({"model.intermediate_size": 4 * dim}, "4 x dim")


def vocab_size(key: Key, toml: EarlierToml) -> Outcome:
    """Return bytes for auto and 260 ids; a BPE tokenizer of a size, which is to be trained, for a larger one."""
    if key.value in ("auto", BYTES) or not isinstance(key.value, int):
        return Outcome({"tokenizer.kind": "bytes"}, f"{BYTES} ids")
    if not toml.is_of_first_trainer:
        return Outcome({"tokenizer.kind": "bytes"}, f"the newest trainer reads bytes, {BYTES} ids, whatever it says")
    path = f"tokenizers/bpe_{key.value}/tokenizer.model"
    return Outcome(
        {"model.vocab_size": key.value, "tokenizer.kind": "bpe", "tokenizer.path": path},
        f"train it first: a copy of tokenizers/bpe_8k.yaml with vocab_size {key.value} and this output",
    )


def model_seq_len(key: Key, toml: EarlierToml) -> Outcome:
    """Return the longest sequence, which is that of training too unless that has a seq_len."""
    longest = {"model.max_seq_len": key.value}
    return Outcome(longest if toml.find("seq_len") else longest | {"batch.seq_len": key.value})


def data_seq_len(key: Key, toml: EarlierToml) -> Outcome:
    """Return the tokens of a window; those of [model] count where it says them, as in the newest trainer."""
    of_model = toml.find("max_seq_len", "model")
    if key.name == "max_seq_len" and of_model and of_model.value != key.value:
        return Outcome(note=f"model.max_seq_len {of_model.value} counts, there too")
    return Outcome({"batch.seq_len": key.value})


def unsaid_seq_len(toml: EarlierToml) -> Outcome | None:
    """Return the newest trainer's own length of a window where the file has none."""
    if toml.find("max_seq_len", "model") or toml.find("max_seq_len") or toml.find("seq_len"):
        return None
    return Outcome({"batch.seq_len": DEFAULT_SEQ_LEN}, "the newest trainer's default")


def short_samples(toml: EarlierToml) -> Outcome | None:
    """Return samples that fit a model whose longest sequence is shorter than those of a run by default."""
    longest = toml.get("max_seq_len", "model")
    if not isinstance(longest, int) or longest >= 128:
        return None
    return Outcome({"samples.new_tokens": max(0, longest + 1 - SAMPLE_PROMPT)}, "model.max_seq_len allows no more")


def ties(toml: EarlierToml) -> Outcome | None:
    """Return the tied embeddings of the newest trainer."""
    if toml.is_of_first_trainer or toml.find("tie_embeddings", "model"):
        return None
    return Outcome({"model.tie_embeddings": True}, "the newest trainer's always are")
