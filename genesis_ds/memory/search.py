"""The largest that fits."""

from typing import Literal

from genesis_ds.errors import UserError
from genesis_ds.memory.situation import Situation

Quantity = Literal["layers", "width", "micro_batch", "seq_len", "model"]
QUANTITIES: tuple[Quantity, ...] = ("layers", "width", "micro_batch", "seq_len", "model")
SEQ_LEN_STEP = 128
LIMIT = 1 << 16
"""Largest multiple of a quantity's step that is tried."""


def largest(situation: Situation, quantity: Quantity) -> tuple[int, Situation]:
    """How many steps of the quantity fit, all else fixed, and the situation at that size.

    Raises UserError when not even the smallest fits.
    """
    if not at(situation, quantity, 1).fits():
        raise UserError(f"--fit {quantity}: not even the smallest fits {situation.hardware.name}; change another size")
    low, high = 1, 2
    while high <= LIMIT and _fits(situation, quantity, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(situation, quantity, middle) else (low, middle)
    return low, at(situation, quantity, low)


def at(situation: Situation, quantity: Quantity, n: int) -> Situation:
    """The situation with n steps of a quantity.

    layers: blocks. width: heads of the run's head width, the feed-forward layer in proportion. micro_batch: windows,
    the number of micro-steps kept. seq_len: 128 tokens. model: width with the layers at the run's ratio of the two.
    """
    if quantity == "layers":
        return situation.with_model(n_layers=n)
    if quantity == "width":
        return _of_width(situation, n, situation.run.model.n_layers)
    if quantity == "micro_batch":
        return _of_micro_batch(situation, n)
    if quantity == "seq_len":
        return _of_seq_len(situation, SEQ_LEN_STEP * n)
    return _of_width(situation, n, _layers_at_ratio(situation, n))


def describe(situation: Situation, quantity: Quantity) -> str:
    """The found quantity in words."""
    model, batch = situation.run.model, situation.run.batch
    return {
        "layers": f"{model.n_layers} layers of width {model.dim}",
        "width": f"width {model.dim} with {model.n_layers} layers",
        "micro_batch": f"micro-batch {batch.micro_batch_size} of {batch.seq_len} tokens",
        "seq_len": f"sequences of {batch.seq_len} tokens, {batch.micro_batch_size} at a time",
        "model": f"{model.n_layers} layers of width {model.dim}",
    }[quantity]


def _fits(situation: Situation, quantity: Quantity, n: int) -> bool:
    """Whether it does. What a configuration does not allow, more layers than MOST_LAYERS, fits nothing."""
    try:
        return at(situation, quantity, n).fits()
    except UserError:
        return False


def _of_width(situation: Situation, n_heads: int, n_layers: int) -> Situation:
    model = situation.run.model
    dim = n_heads * model.head_dim
    feed_forward = max(1, round(model.intermediate_size / model.dim * dim / 64)) * 64
    kv_heads = None if model.kv_heads == model.n_heads else 1
    return situation.with_model(
        dim=dim, n_heads=n_heads, n_kv_heads=kv_heads, intermediate_size=feed_forward, n_layers=n_layers
    )


def _layers_at_ratio(situation: Situation, n_heads: int) -> int:
    model = situation.run.model
    return max(1, round(model.n_layers / model.dim * n_heads * model.head_dim))


def _of_micro_batch(situation: Situation, micro_batch_size: int) -> Situation:
    micro_steps = situation.resolved().gradient_accumulation_steps
    total = micro_batch_size * situation.hardware.world_size * micro_steps
    return situation.with_batch(micro_batch_size=micro_batch_size, global_batch_size=total)


def _of_seq_len(situation: Situation, seq_len: int) -> Situation:
    longest = max(seq_len, situation.run.model.max_seq_len)
    return situation.with_model(max_seq_len=longest).with_batch(seq_len=seq_len)
