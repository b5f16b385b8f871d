"""The search for the largest model, batch or sequence that fits."""

from typing import Literal

from genesis_ds.errors import UserError
from genesis_ds.memory.scenario import Scenario

Quantity = Literal["layers", "width", "micro_batch", "seq_len", "model"]
QUANTITIES: tuple[Quantity, ...] = ("layers", "width", "micro_batch", "seq_len", "model")
SEQ_LEN_STEP = 128
LIMIT = 1 << 16
"""Largest multiple of a quantity's step that is tried."""


def largest(scenario: Scenario, quantity: Quantity) -> tuple[int, Scenario]:
    """Return how many steps of the quantity fit, all else fixed, and the scenario at that size.

    Raises UserError when not even the smallest fits.
    """
    found = at(scenario, quantity, 1)
    if not found.fits():
        raise UserError(f"--fit {quantity}: not even the smallest fits {scenario.hardware.name}; change another size")
    low, high = 1, 2
    while high <= LIMIT and (larger := _if_it_fits(scenario, quantity, high)):
        found, low, high = larger, high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if larger := _if_it_fits(scenario, quantity, middle):
            found, low = larger, middle
        else:
            high = middle
    return low, found


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
    """Return the found quantity in words."""
    model, batch = scenario.run.model, scenario.run.batch
    width = (
        f"width {model.dim} ({model.n_heads} heads, {model.kv_heads} of keys and values; feed-forward "
        f"{model.intermediate_size})"
    )
    return {
        "layers": f"{model.n_layers} layers of width {model.dim}",
        "width": f"{width} with {model.n_layers} layers",
        "micro_batch": f"micro-batch {batch.micro_batch_size} of {batch.seq_len} tokens",
        "seq_len": f"sequences of {batch.seq_len} tokens, {batch.micro_batch_size} at a time",
        "model": f"{model.n_layers} layers of {width}",
    }[quantity]


def _if_it_fits(scenario: Scenario, quantity: Quantity, n: int) -> Scenario | None:
    """Return the scenario with n steps where it fits. What a configuration does not allow does not fit."""
    try:
        larger = at(scenario, quantity, n)
        return larger if larger.fits() else None
    except UserError:
        return None


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
