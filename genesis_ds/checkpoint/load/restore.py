"""Taking up a checkpoint of any number of ranks, ZeRO stage, offload setting and optimizer implementation.

Each rank puts its part of the weights and of the optimizer's state together from the files of all the ranks that saved.
It reads no more than it needs, and nothing is written to the disk. Where nothing has changed the engine goes on bit for
bit.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genesis_ds.checkpoint.load.zero_files import STEP, WEIGHT, ZeroFiles
from genesis_ds.engine.distributed import raise_on_all_ranks
from genesis_ds.engine.engine import torch_optimizer
from genesis_ds.engine.parameter_slices import Place, places
from genesis_ds.errors import UserError


def restore(engine: Any, files: ZeroFiles) -> None:
    """Weights, optimizer, schedule and counters of a checkpoint into a fresh engine. Every rank calls it.

    The settings of the optimizer stay the engine's own: call apply_optimizer_settings afterwards.
    Raises UserError on all ranks when the checkpoint is of another model, or cannot be read.
    """
    raise_on_all_ranks(lambda: _fill(engine, files))
    _cast_weights(engine)
    engine.lr_scheduler.load_state_dict(files.lr_scheduler)
    engine.global_steps, engine.global_samples = files.global_steps, files.global_samples
    engine.skipped_steps = files.skipped_steps


def _fill(engine: Any, files: ZeroFiles) -> None:
    """The master weights and the optimizer's state of this rank."""
    if getattr(engine.optimizer, "swap_optimizer", False):
        raise UserError(
            f"{files.directory}: cannot be taken up with the optimizer on NVMe; set offload_optimizer.device to cpu"
        )
    require_same_model(engine.module, files)
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = torch_optimizer(engine)
    by_tensor: dict[Tensor, list[tuple[str, Place]]] = defaultdict(list)
    for place in places(engine, engine.global_rank):
        by_tensor[place.tensor].append((names[place.parameter], place))
    for tensor, parts in by_tensor.items():
        _read(tensor, WEIGHT, parts, files)
        if state := _state(tensor, parts, files, optimizer):
            optimizer.state[tensor] = state


def _state(
    tensor: Tensor, parts: list[tuple[str, Place]], files: ZeroFiles, optimizer: Optimizer
) -> dict[str, Tensor | int]:
    """The optimizer's state for a tensor, as it would have made it; empty where it had not yet."""
    steps = {files.step(name) for name, _ in parts}
    if len(steps) > 1:
        raise UserError(
            f"{files.directory}: {parts[0][0]} and {parts[-1][0]} have had different numbers of updates, which this "
            "run does not keep apart; resume with the ds_config it was saved with"
        )
    if (step := steps.pop()) is None:
        return {}
    state: dict[str, Tensor | int] = {STEP: _step(step, tensor, optimizer)}
    for key in files.state_keys(parts[0][0]):
        fp32 = key in ("exp_avg", "exp_avg_sq") and getattr(optimizer, "fp32_optimizer_states", False)
        moment = torch.zeros_like(tensor, dtype=torch.float32 if fp32 else None, requires_grad=False)
        _read(moment, key, parts, files)
        state[key] = moment
    return state


def _step(step: float, tensor: Tensor, optimizer: Optimizer) -> Tensor | int:
    """DeepSpeedCPUAdam counts in an int, torch's AdamW in a tensor, which its fused kernel wants on the device."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    if isinstance(optimizer, DeepSpeedCPUAdam):
        return int(step)
    on_device = optimizer.defaults["fused"] or optimizer.defaults["capturable"]
    return torch.tensor(step, dtype=torch.float32, device=tensor.device if on_device else "cpu")


@torch.no_grad()
def _read(into: Tensor, key: str, parts: list[tuple[str, Place]], files: ZeroFiles) -> None:
    for name, place in parts:
        found = files.part(name, key, place.offset, place.numel)
        into.view(-1).narrow(0, place.start, place.numel).copy_(found)


def _cast_weights(engine: Any) -> None:
    """Make the weights that the model computes with those of the master weights, as DeepSpeed does after an update."""
    wrapper, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        with torch.no_grad():
            for place in places(engine, engine.global_rank):
                place.parameter.copy_(place.tensor)
    elif stage == 3:
        wrapper.checkpoint_event_prologue()
        for sub_group in range(len(wrapper.fp32_partitioned_groups_flat)):
            wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].partition(wrapper.persistent_parameters)
        wrapper.checkpoint_event_epilogue()
    else:
        wrapper.update_lp_params()


def require_same_model(model: nn.Module, files: ZeroFiles) -> None:
    """Raises UserError with the first parameter that is not the same there, by its name and shape."""
    own = {name: getattr(weight, "ds_shape", weight.shape) for name, weight in model.named_parameters()}
    for name in sorted(own.keys() | files.shapes.keys()):
        saved, wanted = files.shapes.get(name), own.get(name)
        if saved != wanted:
            shapes = [list(shape) if shape is not None else "absent" for shape in (saved, wanted)]
            raise UserError(
                f"{files.directory}: {name} is {shapes[0]} there and {shapes[1]} in this run; give the model and the "
                "tasks it was saved with, or --resume never with another --name to start anew"
            )
