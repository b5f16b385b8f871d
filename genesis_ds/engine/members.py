"""The members of DeepSpeed that internals.py, and profiled.py, use and its documentation does not promise.

MEMBERS names each with what it is needed for; `gone` says which of them the installed DeepSpeed no longer has, and a
test calls it.
"""

import importlib
import inspect
from typing import NamedTuple

ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"
ZERO12 = "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer"
BF16_ZERO1 = "deepspeed.runtime.bf16_optimizer:BF16_Optimizer"
UNFUSED = "deepspeed.runtime.fp16.unfused_optimizer:FP16_UnfusedOptimizer"
FUSED = "deepspeed.runtime.fp16.fused_optimizer:FP16_Optimizer"
ZERO3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"
COORDINATOR = "deepspeed.runtime.zero.partitioned_param_coordinator:PartitionedParameterCoordinator"
CPU_ADAM = "deepspeed.ops.adam.cpu_adam:DeepSpeedCPUAdam"


class Member(NamedTuple):
    """A member of DeepSpeed that may go without notice."""

    where: str
    """module:Class, or module: for a name of the module itself."""
    name: str
    needed_for: str

    def __str__(self) -> str:
        return f"{self.where.partition(':')[2] or self.where.rstrip(':')}.{self.name}"


MEMBERS = (
    Member(ENGINE, "get_global_grad_norm", "the gradient norm of a step"),
    Member(ENGINE, "was_step_applied", "whether a step was an update"),
    Member(ENGINE, "_global_grad_norm", "the gradient norm under ZeRO-0 in fp32, read from the optimizer"),
    Member(ENGINE, "overflow", "leaving out an update under ZeRO-0 in fp32, read from the optimizer"),
    Member(ENGINE, "checkpoint_engine", "taking what would be saved before it touches the disk"),
    Member(ENGINE, "_copy_recovery_script", "the same: it writes on rank 0 alone"),
    Member(ENGINE, "global_samples", "resuming"),
    Member(ENGINE, "skipped_steps", "resuming"),
    Member(ENGINE, "destroy", "building a second engine in a process"),
    Member(ZERO12, "round_robin_bit16_groups", "which weights a rank updates under ZeRO-1 and 2"),
    Member(ZERO12, "round_robin_bit16_offsets", "which weights a rank updates under ZeRO-1 and 2"),
    Member(ZERO12, "update_lp_params", "resuming under ZeRO-1 and 2"),
    Member(ZERO12, "single_partition_of_fp32_groups", "the master weights of ZeRO-1 and 2"),
    Member(ZERO12, "param_buffer_of_bit16_for_cpu_offload_groups", "one buffer for masters and what goes to the GPU"),
    Member(ZERO12, "cpu_offload", "the same, where there is a buffer"),
    Member(ZERO12, "initialize_optimizer_states", "the same, before the gradients are made"),
    Member(BF16_ZERO1, "bf16_groups", "which weights a rank updates under ZeRO-1 in bf16 with fp32 gradients"),
    Member(BF16_ZERO1, "update_lp_params", "resuming under ZeRO-1 in bf16 with fp32 gradients"),
    Member(UNFUSED, "fp16_groups", "ZeRO-0 in bf16"),
    Member(UNFUSED, "initialize_optimizer_states", "beginning ZeRO-0 in bf16 without an update"),
    Member(FUSED, "fp16_groups", "ZeRO-0 in bf16"),
    Member(FUSED, "initialize_optimizer_states", "beginning ZeRO-0 in bf16 without an update"),
    Member(ZERO3, "grad_position", "which weights a rank updates under ZeRO-3"),
    Member(ZERO3, "get_param_id", "which weights a rank updates under ZeRO-3"),
    Member(ZERO3, "fp32_partitioned_groups_flat", "the master weights of ZeRO-3"),
    Member(ZERO3, "fp16_partitioned_groups_flat", "one buffer for weights and masters of ZeRO-3"),
    Member(ZERO3, "_create_fp32_partitions", "the same, when the masters are made"),
    Member(ZERO3, "params_in_nvme_and_cpu", "the same, where all weights are in memory"),
    Member(
        ZERO3, "grad_partitions_flat_buffer", "one buffer for sums of gradients and what ZeRO-3's optimizer is given"
    ),
    Member(ZERO3, "_setup_for_real_optimizer", "the same, when the sums are made"),
    Member(ZERO3, "initialize_optimizer_states", "the same: it makes gradients"),
    Member(ZERO3, "gradient_accumulation_dtype", "the same, where dtypes are one"),
    Member(ZERO3, "master_weights_and_grads_dtype", "the same, where dtypes are one"),
    Member(ZERO3, "subgroup_to_device", "the same, where all of the optimizer is on the host"),
    Member(ZERO3, "swap_optimizer", "whether the optimizer is on NVMe"),
    Member(ZERO3, "persistent_parameters", "resuming under ZeRO-3"),
    Member(ZERO3, "_reassign_or_swap_out_partitioned_parameters", "resuming under ZeRO-3"),
    Member(ZERO3, "checkpoint_event_prologue", "resuming under ZeRO-3"),
    Member(ZERO3, "checkpoint_event_epilogue", "resuming under ZeRO-3"),
    Member("deepspeed.runtime.zero.partition_parameters:Init", "ds_numel", "the size of a partitioned parameter"),
    Member("deepspeed.runtime.zero.partition_parameters:Init", "ds_shape", "the shape of a partitioned parameter"),
    Member("deepspeed.runtime.zero.parameter_offload:", "FWD_MODULE_STACK", "letting go of a ZeRO-3 model"),
    Member(COORDINATOR, "__params_to_release", "letting go of a ZeRO-3 model"),
    Member(CPU_ADAM, "ds_opt_adam", "bit-exact resume of DeepSpeedCPUAdam, and rounding bf16 masters"),
    Member(CPU_ADAM, "opt_id", "bit-exact resume of DeepSpeedCPUAdam"),
    Member(CPU_ADAM, "fp32_optimizer_states", "the dtype of DeepSpeedCPUAdam's moments"),
    Member("deepspeed.ops:", "__compatible_ops__", "gloo in the place of a compiled collective on CPUs"),
    Member("deepspeed.runtime.compiler:", "compile", "starting without torch's compiler"),
    Member("deepspeed.runtime.zero.muon.original_muon:", "muon_update", "starting without torch's compiler"),
    Member("deepspeed.runtime.checkpoint_engine.checkpoint_engine:", "CheckpointEngine", "saving"),
    Member(
        "deepspeed.ops.op_builder.builder:OpBuilder", "_loaded_ops", "loading what is compiled without asking ninja"
    ),
    Member("deepspeed.ops.op_builder:", "CPUAdamBuilder", "building DeepSpeedCPUAdam under a lock of our own"),
    Member("deepspeed.ops.op_builder:", "AsyncIOBuilder", "building NVMe offload under a lock of our own"),
    Member("deepspeed.ops.op_builder.pin_memory:", "PinMemoryBuilder", "building exact pinning under our own lock"),
    Member(ENGINE, "allreduce_gradients", "the time of the reduction at the end of a backward pass"),
    Member(ZERO12, "process_gradients", "the time of a gradient's reduction under ZeRO-1 and 2"),
    Member(ZERO3, "reduce_ready_partitions_and_remove_grads", "the time of a gradient's reduction under ZeRO-3"),
    Member(COORDINATOR, "fetch_sub_module", "the time of fetching weights under ZeRO-3"),
    Member(COORDINATOR, "release_sub_module", "the time of releasing weights under ZeRO-3"),
)


def gone(members: tuple[Member, ...] = MEMBERS) -> list[str]:
    """Return a line for each member that the installed DeepSpeed lacks; none where all are there."""
    import deepspeed

    return [
        f"DeepSpeed {deepspeed.__version__} no longer has {member}, needed for {member.needed_for}"
        for member in members
        if not _is_there(member)
    ]


def _is_there(member: Member) -> bool:
    """An attribute that is only made in a constructor is found in the source."""
    module, _, cls = member.where.partition(":")
    try:
        owner = getattr(importlib.import_module(module), cls) if cls else importlib.import_module(module)
    except (ImportError, AttributeError):
        return False
    return hasattr(owner, member.name) or member.name in inspect.getsource(owner)
