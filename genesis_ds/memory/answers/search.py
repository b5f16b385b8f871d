"""The search for the largest model, batch or sequence that fits."""

from dataclasses import dataclass
from typing import Literal

from genesis_ds.errors import UserError
from genesis_ds.memory.scenario import Scenario

Quantity = Literal["layers", "width", "micro_batch", "seq_len", "model"]
QUANTITIES: tuple[Quantity, ...] = ("layers", "width", "micro_batch", "seq_len", "model")
SEQ_LEN_STEP = 128
LIMIT = 1 << 16
"""Largest multiple of a quantity's step that is tried."""


@dataclass(frozen=True)
class Largest:
    """The largest size that was found to fit."""

    n: int
    """Steps of the quantity."""
    scenario: Scenario
    limit: str
    """What is in the way of one step more; "" for memory."""


def largest(scenario: Scenario, quantity: Quantity) -> Largest:
    """Return the largest size of the quantity that fits, all else fixed.

    Raises UserError when not even the smallest fits.
    """
    found = at(scenario, quantity, 1)
    if not found.fits():
        raise UserError(f"--fit {quantity}: not even the smallest fits {scenario.hardware.name}; change another size")
    low, high, limit = 1, 2, ""
    while high <= LIMIT:
        larger, limit = _if_it_fits(scenario, quantity, high)
        if not larger:
            break
        found, low, high = larger, high, 2 * high
    else:
        return Largest(low, found, "nothing larger was tried")
    while high - low > 1:
        middle = (low + high) // 2
        larger, why = _if_it_fits(scenario, quantity, middle)
        if larger:
            found, low = larger, middle
        else:
            high, limit = middle, why
    return Largest(low, found, limit)


def at(scenario: Scenario, quantity: Quantity, n: int) -> Scenario:
    """Return the scenario with n steps of a quantity.

    layers: blocks. width: key/value heads of the run's head width, each with as many query heads as there, or query
    heads where all share one; the feed-forward layer in proportion. micro_batch: windows, the number of micro-steps
    kept. seq_len: 128 tokens. model: width with the layers at the run's ratio of the two.
    """
    if quantity == "layers":
        return scenario.with_model(n_layers=n)
    if quantity in ("width", "model"):
        return _of_width(scenario, n, depth_in_proportion=quantity == "model")
    if quantity == "micro_batch":
        return _of_micro_batch(scenario, n)
    return _of_seq_len(scenario, SEQ_LEN_STEP * n)


def describe(scenario: Scenario, quantity: Quantity) -> str:
    """Return the found quantity in words, with the keys that a run needs for it."""
    model, batch = scenario.run.model, scenario.run.batch
    width = (
        f"width {model.dim} ({model.n_heads} heads, {model.kv_heads} of keys and values; feed-forward "
        f"{model.intermediate_size})"
    )
    return {
        "layers": f"{model.n_layers} layers of width {model.dim}",
        "width": f"{width} with {model.n_layers} layers",
        "micro_batch": (
            f"batch.micro_batch_size {batch.micro_batch_size} with batch.global_batch_size {batch.global_batch_size}, "
            f"of {batch.seq_len} tokens in as many micro-steps as before"
        ),
        "seq_len": (
            f"batch.seq_len {batch.seq_len} with model.max_seq_len {model.max_seq_len}, {batch.micro_batch_size} "
            "sequences at a time"
        ),
        "model": f"{model.n_layers} layers of {width}",
    }[quantity]


def _if_it_fits(scenario: Scenario, quantity: Quantity, n: int) -> tuple[Scenario | None, str]:
    """Return the scenario with n steps where it fits, and why a configuration does not allow them; "" for memory."""
    try:
        larger = at(scenario, quantity, n)
        return (larger if larger.fits() else None), ""
    except UserError as error:
        return None, str(error)


def _of_width(scenario: Scenario, n: int, *, depth_in_proportion: bool) -> Scenario:
    model = scenario.run.model
    all_share_one = model.kv_heads == 1 < model.n_heads
    n_heads, kv_heads = (n, 1) if all_share_one else (n * model.n_heads // model.kv_heads, n)
    dim = n_heads * model.head_dim
    n_layers = max(1, round(model.n_layers / model.dim * dim)) if depth_in_proportion else model.n_layers
    feed_forward = max(1, round(model.intermediate_size / model.dim * dim / 64)) * 64
    n_kv_heads = None if model.n_kv_heads is None else kv_heads
    return scenario.with_model(
        dim=dim, n_heads=n_heads, n_kv_heads=n_kv_heads, intermediate_size=feed_forward, n_layers=n_layers
    )


def _of_micro_batch(scenario: Scenario, micro_batch_size: int) -> Scenario:
    micro_steps = scenario.sized().ds_config.gradient_accumulation_steps
    total = micro_batch_size * scenario.hardware.world_size * micro_steps
    return scenario.with_batch(micro_batch_size=micro_batch_size, global_batch_size=total)


def _of_seq_len(scenario: Scenario, seq_len: int) -> Scenario:
    longest = max(seq_len, scenario.run.model.max_seq_len)
    return scenario.with_model(max_seq_len=longest).with_batch(seq_len=seq_len)
