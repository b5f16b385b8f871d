"""Every member of DeepSpeed that its documentation does not promise: used here, and nowhere else.

members.py names each with what it is needed for. What DeepSpeed writes to disk is read in
checkpoint/load/zero_files.py.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from deepspeed.ops.op_builder.builder import OpBuilder


class DeepSpeedEngine(Protocol):
    """The members of DeepSpeed's engine that this package uses."""

    module: nn.Module
    optimizer: Any
    """The torch optimizer itself under ZeRO-0 in fp32; otherwise DeepSpeed's wrapper of it, a class for each stage."""
    lr_scheduler: LambdaLR
    checkpoint_engine: Any
    global_rank: int
    global_steps: int
    global_samples: int
    skipped_steps: int

    def __call__(self, *inputs: Any, **named: Any) -> Any: ...
    def backward(self, loss: Tensor) -> Any: ...
    def step(self) -> None: ...
    def eval(self) -> Any: ...
    def train(self) -> Any: ...
    def destroy(self) -> None: ...
    def is_gradient_accumulation_boundary(self) -> bool: ...
    def gradient_accumulation_steps(self) -> int: ...
    def gradient_clipping(self) -> float: ...
    def zero_optimization_stage(self) -> int: ...
    def get_lr(self) -> list[float]: ...
    def get_global_grad_norm(self) -> float: ...
    def was_step_applied(self) -> bool: ...
    def save_checkpoint(self, save_dir: str, tag: str, save_latest: bool, client_state: Mapping[str, Any]) -> Any: ...


def torch_optimizer(engine: DeepSpeedEngine) -> Optimizer:
    """Return the optimizer that DeepSpeed's wraps; ZeRO-0 in fp32 has no wrapper."""
    optimizer: Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return optimizer


def is_bare(engine: DeepSpeedEngine) -> bool:
    """Whether the torch optimizer stands alone, as under ZeRO-0 in fp32."""
    return engine.optimizer is torch_optimizer(engine)


def report_overflow(optimizer: Optimizer, overflow: bool, norm: float | Tensor) -> None:
    """Say what the engine reads from a wrapper where there is none: whether the step is skipped, and the norm."""
    bare: Any = optimizer
    bare.overflow, bare._global_grad_norm = overflow, norm


class FlatParameter(NamedTuple):
    """A parameter's place in the partitioned memory of its group under ZeRO-1 and 2."""

    parameter: Tensor
    offset: int
    """Where it starts in the flattened group."""
    partition: Tensor
    """This rank's part of the flattened group, in fp32."""


def masters(engine: DeepSpeedEngine) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every parameter under ZeRO-0 with what the optimizer updates: itself in fp32, or its fp32 master."""
    groups = [group["params"] for group in torch_optimizer(engine).param_groups]
    for originals, own in zip(getattr(engine.optimizer, "fp16_groups", groups), groups, strict=True):
        yield from zip(originals, own, strict=True)


def flat_parameters(engine: DeepSpeedEngine) -> Iterator[FlatParameter]:
    """Yield every parameter under ZeRO-1 and 2.

    DeepSpeed's own _hp_mapping takes the wrong order with round_robin_gradients and several ranks (0.19.8).
    """
    wrapper = engine.optimizer
    if hasattr(wrapper, "round_robin_bit16_groups"):
        groups, offsets = wrapper.round_robin_bit16_groups, wrapper.round_robin_bit16_offsets
    else:  # ZeRO-1 in bf16 with fp32 gradients
        groups = wrapper.bf16_groups
        offsets = [[*accumulate((parameter.numel() for parameter in group[:-1]), initial=0)] for group in groups]
    for group, starts, settings in zip(groups, offsets, torch_optimizer(engine).param_groups, strict=True):
        for parameter, offset in zip(group, starts, strict=True):
            yield FlatParameter(parameter, offset, settings["params"][0])


class Shard(NamedTuple):
    """A parameter's place in the partitioned memory of ZeRO-3."""

    parameter: Tensor
    numel: int
    """Elements of the whole parameter."""
    start: int
    """Where this rank's shard starts in the master."""
    shard_numel: int
    """Elements of the shard, padding included."""
    master: Tensor
    """The fp32 shards of the parameter's sub-group on this rank."""


def shards(engine: DeepSpeedEngine) -> Iterator[Shard]:
    """Yield every parameter under ZeRO-3."""
    wrapper = engine.optimizer
    for parameter in engine.module.parameters():
        sub_group, start, shard = wrapper.grad_position[wrapper.get_param_id(parameter)]
        yield Shard(parameter, whole_numel(parameter), start, shard, wrapper.fp32_partitioned_groups_flat[sub_group])


def whole_numel(parameter: Tensor) -> int:
    """Return the elements of a parameter that ZeRO-3 may have partitioned."""
    return getattr(parameter, "ds_numel", parameter.numel())


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of a parameter that ZeRO-3 may have partitioned."""
    return getattr(parameter, "ds_shape", parameter.shape)


def is_on_nvme(engine: DeepSpeedEngine) -> bool:
    """Whether the optimizer's state is swapped to NVMe."""
    return bool(getattr(engine.optimizer, "swap_optimizer", False))


def cast_weights(engine: DeepSpeedEngine) -> None:
    """Make the weights that the model computes with those of the master weights, as DeepSpeed does after an update."""
    wrapper, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 0:
        with torch.no_grad():
            for parameter, master in masters(engine):
                parameter.copy_(master)
    elif stage == 3:
        wrapper.checkpoint_event_prologue()
        for sub_group in range(len(wrapper.fp32_partitioned_groups_flat)):
            wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
        if wrapper.persistent_parameters:
            wrapper.persistent_parameters[0].partition(wrapper.persistent_parameters)
        wrapper.checkpoint_event_epilogue()
    else:
        wrapper.update_lp_params()


def destroy(engine: DeepSpeedEngine) -> None:
    """Let go of an engine, the only one of its process, so that another can be built in its memory.

    DeepSpeed 0.19.8 keeps every ZeRO-3 model in a list and in a function's cache, for ever.
    """
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    FWD_MODULE_STACK.clear()
    cached = getattr(PartitionedParameterCoordinator, "_PartitionedParameterCoordinator__params_to_release")  # noqa: B009
    inspect.getclosurevars(cached).nonlocals["func"].cache_clear()
    engine.destroy()


def is_cpu_adam(optimizer: Optimizer) -> bool:
    """Whether it is DeepSpeedCPUAdam."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return isinstance(optimizer, DeepSpeedCPUAdam)


def replace_cpu_adam_operation(optimizer: Optimizer, operation: Any) -> Any:
    """Have a DeepSpeedCPUAdam call another operation for its updates; return the one it called."""
    adam: Any = optimizer
    replaced, adam.ds_opt_adam = adam.ds_opt_adam, operation
    return replaced


def flat_masters(engine: DeepSpeedEngine) -> list[Tensor]:
    """Return the tensors that the optimizer updates under ZeRO-1 to 3, padding included."""
    wrapper = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(wrapper.fp32_partitioned_groups_flat)
    return list(wrapper.single_partition_of_fp32_groups)


def keeps_fp32_moments(optimizer: Optimizer) -> bool:
    """Whether DeepSpeedCPUAdam keeps its moments in fp32, whatever the dtype of the master weights."""
    return bool(getattr(optimizer, "fp32_optimizer_states", False))


def jump_cpu_adam_step(optimizer: Optimizer, scratch: list[Tensor]) -> None:
    """Update scratch tensors at a far step, by which DeepSpeedCPUAdam forgets the powers of beta that it keeps."""
    adam: Any = optimizer
    group = adam.param_groups[0]
    beta1, beta2 = group["betas"]
    weight, gradient, moment1, moment2 = scratch
    adam.ds_opt_adam.adam_update(
        adam.opt_id,
        2**40,  # the step
        0.0,  # learning rate
        beta1,
        beta2,
        group["eps"],
        0.0,  # weight decay
        group["bias_correction"],
        weight,
        gradient,
        moment1,
        moment2,
    )


@contextmanager
def sharing_buffers() -> Iterator[None]:
    """Have DeepSpeed build an offloaded optimizer in which buffers that would hold the same bits are one.

    Where weights and master weights have one dtype, the master is the buffer by which ZeRO-1/2 send new weights to the
    GPU, and ZeRO-3's weights on the host are its masters, as without offload it means them to be. Where ZeRO-3 adds up
    gradients in the masters' dtype, the sums are what the optimizer is given. DeepSpeed copies one into the other, and
    a tensor into itself is no copy.
    """
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Zero3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer as Zero12

    with ExitStack() as stack:
        for cls, name, replacement in (
            (Zero12, "initialize_optimizer_states", _share_masters_with_staging),
            (Zero3, "_create_fp32_partitions", _share_weights_with_masters),
            (Zero3, "initialize_optimizer_states", _make_gradients),
            (Zero3, "_setup_for_real_optimizer", _share_sums_with_gradients),
        ):
            stack.enter_context(_replacing(cls, name, replacement))
        yield


@contextmanager
def starting_unstepped() -> Iterator[None]:
    """Have ZeRO-0 in bf16 begin without the update on zero gradients that would decay the masters."""
    from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    name, nothing = "initialize_optimizer_states", lambda wrapper, update: None
    with _replacing(FP16_Optimizer, name, nothing), _replacing(FP16_UnfusedOptimizer, name, nothing):
        yield


@contextmanager
def _replacing(cls: Any, name: str, replacement: Callable[[Any, Callable[[Any], None]], None]) -> Iterator[None]:
    """Call another function in a method's place, with the object and the method itself."""
    method = getattr(cls, name)
    setattr(cls, name, lambda self: replacement(self, method))
    try:
        yield
    finally:
        setattr(cls, name, method)


def _share_masters_with_staging(zero12: Any, make_gradients: Callable[[Any], None]) -> None:
    """Before the gradients are made: they take up the pinned blocks that are free now."""
    if zero12.cpu_offload:
        pairs = zip(
            zero12.param_buffer_of_bit16_for_cpu_offload_groups, zero12.single_partition_of_fp32_groups, strict=True
        )
        zero12.param_buffer_of_bit16_for_cpu_offload_groups = [
            master if master.dtype == staging.dtype else staging for staging, master in pairs
        ]
    make_gradients(zero12)


def _share_weights_with_masters(zero3: Any, make_masters: Callable[[Any], None]) -> None:
    make_masters(zero3)
    masters = zero3.fp32_partitioned_groups_flat
    if not (zero3.offload_optimizer and zero3.offload_param) or zero3.swap_optimizer or zero3.params_in_nvme_and_cpu:
        return
    for index, (weights, master) in enumerate(zip(zero3.fp16_partitioned_groups_flat, masters, strict=True)):
        if (weights.dtype, weights.device) == (master.dtype, master.device):
            masters[index] = weights.detach().requires_grad_()
            masters[index].ds_id = master.ds_id


def _shares_sums(zero3: Any) -> bool:
    return (
        zero3.offload_optimizer
        and not zero3.swap_optimizer
        and zero3.gradient_accumulation_dtype == zero3.master_weights_and_grads_dtype
        and set(zero3.subgroup_to_device.values()) == {"cpu"}
        and not isinstance(zero3.optimizer, torch.optim.Adagrad)  # made anew where the gradients are made
    )


def _make_gradients(zero3: Any, make_gradients: Callable[[Any], None]) -> None:
    if not _shares_sums(zero3):
        make_gradients(zero3)


def _share_sums_with_gradients(zero3: Any, set_up: Callable[[Any], None]) -> None:
    set_up(zero3)
    start = 0
    for master in zero3.fp32_partitioned_groups_flat if _shares_sums(zero3) else ():
        master.grad = zero3.grad_partitions_flat_buffer.narrow(0, start, master.numel())
        start += master.numel()


def prefer_gloo() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives for CPUs; gloo does the same work at once."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def set_timeouts(timeout: timedelta) -> None:
    """Give every process group of this rank a timeout. torch has no public way for a group that is made already."""
    from torch.distributed import distributed_c10d

    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timeout, group)


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which is not used here, without torch's compiler, which its decorators would import.

    All of DeepSpeed's optimizer wrappers import it, and the compiler takes seconds.
    """
    from deepspeed.runtime import compiler

    original, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = original


def op_builder(name: str) -> "OpBuilder":
    """Return DeepSpeed's builder of a compiled operation: cpu_adam, async_io or pin_memory."""
    from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder
    from deepspeed.ops.op_builder.pin_memory import PinMemoryBuilder

    return {"cpu_adam": CPUAdamBuilder, "async_io": AsyncIOBuilder, "pin_memory": PinMemoryBuilder}[name]()


def load_compiled(name: str, library: Path) -> None:
    """Load an operation that is compiled already, so that its builder has it. Raises ImportError where it cannot be."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    specification = importlib.util.spec_from_file_location(name, library)
    if specification is None or specification.loader is None:
        raise ImportError(f"{library} is no extension module")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    OpBuilder._loaded_ops[name] = module


def collect_state(engine: DeepSpeedEngine, directory: Path, counters: Mapping[str, int]) -> Mapping[str, Any]:
    """Return what DeepSpeed would write into a checkpoint on this rank: file name -> the state dict that belongs in it.

    They refer to the engine's tensors. Every rank calls it. DeepSpeed writes between collectives: a rank whose disk is
    full would leave the others waiting; so its files are caught here and written when no rank waits for another. An
    optimizer on NVMe has its files copied into the directory, which exists. counters: what is saved beside DeepSpeed's.
    """
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

    class Catching(CheckpointEngine):  # type: ignore[misc]  # DeepSpeed has no types
        """Stands in the place of DeepSpeed's TorchCheckpointEngine."""

        def __init__(self) -> None:
            super().__init__()
            self.states: dict[str, Any] = {}

        def create(self, info: CheckpointCommitInfo) -> None:
            """Prepare nothing."""

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            """Make nothing: the directory is there."""

        def save(self, state_dict: Any, path: str) -> None:
            self.states[Path(path).name] = state_dict

        def load(self, path: str, map_location: Any = None) -> NoReturn:
            raise NotImplementedError("checkpoints are read without unpickling classes")

        def commit(self, info: CheckpointCommitInfo) -> bool:
            return True

    files = Catching()
    engine.checkpoint_engine = files
    skip: Callable[[str], None] = lambda save_path: None  # noqa: E731
    engine._copy_recovery_script = skip  # type: ignore[attr-defined]
    engine.save_checkpoint(str(directory.parent), tag=directory.name, save_latest=False, client_state=counters)
    return files.states
