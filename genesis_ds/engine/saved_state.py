"""Taking up a checkpoint of any number of ranks, ZeRO stage, offload setting and optimizer implementation.

Each rank puts its slices of the weights and of the optimizer's state together from the files of all the ranks that
saved. It reads no more than it needs, and nothing is written to the disk. Where nothing has changed the engine goes on
bit for bit.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genesis_ds.engine import internals
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.parameter_slices import ParameterSlice, parameter_slices
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import STEP, WEIGHT, WEIGHT_AVERAGE

SWAPPED = 2**22
"""Elements of a weight that are swapped with their average at a time, so that no second copy of it is needed."""
NamedSlice = tuple[str, ParameterSlice]


class SavedState(Protocol):
    """What an engine needs to read of a checkpoint, by the model's names of its parameters."""

    directory: Path
    lr_scheduler: dict[str, Any]
    global_steps: int
    global_samples: int
    skipped_steps: int
    n_averaged: int | None
    """How many updates the average of the weights is of; None where the checkpoint is of before this was counted."""

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """The shape of each parameter."""

    def step(self, name: str) -> float | None:
        """Return how many updates the parameter has had; None where none, as a head's that no step has used.

        None also where the optimizer does not count.
        """

    def state_keys(self, name: str) -> Sequence[str]:
        """Return the names of the tensors of its optimizer state, such as exp_avg."""

    def part(self, name: str, key: str, offset: int, numel: int) -> Tensor:
        """Return elements of the flattened weight (key WEIGHT) or of a tensor of its state, fp32 [numel]."""


def fill(engine: DeepSpeedEngine, saved: SavedState, dropped: Collection[str] = ()) -> None:
    """Read this rank's slices of the master weights and of the optimizer's state into a fresh engine.

    dropped: names of the tensors of a state that this engine does not use. Raises UserError when the checkpoint is of
    another model, or cannot be read.
    """
    if internals.is_on_nvme(engine):
        raise UserError(
            f"{saved.directory}: cannot be taken up with the optimizer on NVMe; set offload_optimizer.device to cpu"
        )
    require_same_model(engine.module, saved)
    names: dict[Tensor, str] = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = internals.torch_optimizer(engine)
    by_tensor: dict[Tensor, list[NamedSlice]] = defaultdict(list)
    for span in parameter_slices(engine, engine.global_rank):
        by_tensor[span.tensor].append((names[span.parameter], span))
    for tensor, slices in by_tensor.items():
        _read(tensor, WEIGHT, slices, saved)
        state = _state(tensor, slices, saved, optimizer)
        if kept := {key: value for key, value in state.items() if key not in dropped}:
            optimizer.state[tensor] = kept


def finish_loading(engine: DeepSpeedEngine, saved: SavedState) -> None:
    """Cast the weights from the masters, and take up schedule and counters. Every rank calls it after `fill`."""
    internals.cast_weights(engine)
    # Engine.set_peak_rate sets the rates that it keeps for each parameter group: there may be other groups now.
    engine.lr_scheduler.load_state_dict(saved.lr_scheduler | {"lr_lambdas": []})
    engine.global_steps, engine.global_samples = saved.global_steps, saved.global_samples
    engine.skipped_steps = saved.skipped_steps


@torch.no_grad()
def swap_with_average(engine: DeepSpeedEngine) -> None:
    """Put the average of the weights in their place, and them in its; a second time gives them back bit for bit."""
    for tensor, state in internals.torch_optimizer(engine).state.items():
        if (average := state.get(WEIGHT_AVERAGE)) is not None:
            for ours, theirs in zip(tensor.view(-1).split(SWAPPED), average.view(-1).split(SWAPPED), strict=True):
                kept = ours.clone()
                ours.copy_(theirs)
                theirs.copy_(kept)
    internals.cast_weights(engine)


def _state(
    tensor: Tensor, slices: list[NamedSlice], saved: SavedState, optimizer: Optimizer
) -> dict[str, Tensor | int]:
    """The optimizer's state for a tensor, as it would have made it; empty where it had not yet."""
    histories = {(saved.step(name), frozenset(saved.state_keys(name))) for name, _ in slices}
    if len(histories) > 1:
        raise UserError(
            f"{saved.directory}: {slices[0][0]} and {slices[-1][0]} have had different numbers of updates, which this "
            "run does not keep apart; resume with the ds_config it was saved with"
        )
    step = saved.step(slices[0][0])
    state: dict[str, Tensor | int] = {} if step is None else {STEP: _step(step, tensor, optimizer)}
    for key in saved.state_keys(slices[0][0]):
        fp32 = key in ("exp_avg", "exp_avg_sq") and internals.keeps_fp32_moments(optimizer)
        moment = torch.zeros_like(tensor, dtype=torch.float32 if fp32 else None, requires_grad=False)
        _read(moment, key, slices, saved)
        state[key] = moment
    return state


def _step(step: float, tensor: Tensor, optimizer: Optimizer) -> Tensor | int:
    """DeepSpeedCPUAdam counts in an int, torch's AdamW in a tensor, which its fused kernel wants on the device."""
    if internals.is_cpu_adam(optimizer):
        return int(step)
    on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return torch.tensor(step, dtype=torch.float32, device=tensor.device if on_device else "cpu")


@torch.no_grad()
def _read(into: Tensor, key: str, slices: list[NamedSlice], saved: SavedState) -> None:
    for name, span in slices:
        found = saved.part(name, key, span.offset, span.numel)
        into.view(-1).narrow(0, span.start, span.numel).copy_(found)


def require_same_model(model: nn.Module, saved: SavedState) -> None:
    """Raise UserError with the first parameter that is not the same there, by its name and shape."""
    own = {name: internals.whole_shape(weight) for name, weight in model.named_parameters()}
    for name in sorted(own.keys() | saved.shapes.keys()):
        theirs, wanted = saved.shapes.get(name), own.get(name)
        if theirs != wanted:
            shapes = [list(shape) if shape is not None else "absent" for shape in (theirs, wanted)]
            raise UserError(
                f"{saved.directory}: {name} is {shapes[0]} there and {shapes[1]} in this run; give the model and the "
                "tasks it was saved with, or --resume never with another --name to start anew"
            )
