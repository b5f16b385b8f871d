"""What DeepSpeed 0.19.8 accepts in a ds_config: every key, its default, its type and its range, as plain data.

DeepSpeed checks only some of its sections (pydantic, extra="forbid"); a typo at the top level or in
activation_checkpointing, aio, checkpoint, data_types, flops_profiler or torch_autocast is accepted in silence.
Importing deepspeed to ask it costs seconds, so the knowledge stands here; tests/unit/ds_config/test_schema.py compares
every key and default with DeepSpeed's own classes. Paths in comments are relative to the deepspeed package.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bool", "int", "number", "numbers", "string", "strings", "choice", "section"]


@dataclass(frozen=True)
class Key:
    """One key of a ds_config."""

    kind: Kind
    default: Any
    """What DeepSpeed takes when the key is absent; None also means that null is allowed."""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    keys: Mapping[str, "Key"] | None = None
    """The keys of a section."""
    auto: bool = False
    """True where "auto" may stand: the run's YAML owns the value and resolve() writes it."""


Table = Mapping[str, Key]


def _bool(default: bool | None) -> Key:
    return Key("bool", default)


def _int(default: int | None, at_least: int | None = None, above: int | None = None, auto: bool = False) -> Key:
    return Key("int", default, at_least=at_least, above=above, auto=auto)


def _number(
    default: float | None, at_least: float | None = None, at_most: float | None = None, auto: bool = False
) -> Key:
    return Key("number", default, at_least=at_least, at_most=at_most, auto=auto)


def _text(default: str | None) -> Key:
    return Key("string", default)


def _choice(default: Any, *choices: Any) -> Key:
    return Key("choice", default, choices=choices)


def _section(keys: Table) -> Key:
    return Key("section", None, keys=keys)


# runtime/config.py DtypeEnum; int8 and fp16 are left out: this trainer runs in bf16 or fp32.
DTYPES = ("bf16", "bfloat16", "torch.bfloat16", "fp32", "float32", "torch.float32", "float")

# runtime/zero/offload_config.py
OFFLOAD_PARAM: Table = {
    "device": _choice("none", "none", "cpu", "nvme"),
    "nvme_path": _text(None),
    "buffer_count": _int(5, at_least=0),
    "buffer_size": _int(100_000_000, at_least=0),
    "max_in_cpu": _int(1_000_000_000, at_least=0),
    "pin_memory": _bool(True),
}
OFFLOAD_OPTIMIZER: Table = {
    "device": _choice("none", "none", "cpu", "nvme"),
    "nvme_path": _text(None),
    "buffer_count": _int(4, at_least=0),
    "pin_memory": _bool(True),
    "pipeline_read": _bool(False),
    "pipeline_write": _bool(False),
    "fast_init": _bool(False),
    "ratio": _number(1.0, at_least=0.0, at_most=1.0),
    "super_offload": _bool(False),
    "cpuadam_cores_perc": _number(0.8, at_least=0.0, at_most=1.0),
}
# runtime/zero/leaf_module_config.py; the default classes are mixture-of-experts blocks of transformers.
LEAF_MODULE: Table = {
    "classes": Key("strings", None),
    "names": Key("strings", None),
    "name_suffixes": Key("strings", None),
}
# runtime/zero/config.py DeepSpeedZeroConfig; the names are those of the documentation (pydantic's aliases).
ZERO: Table = {
    "stage": _choice(0, 0, 1, 2, 3),
    "contiguous_gradients": _bool(True),
    "reduce_scatter": _bool(True),
    "reduce_bucket_size": _int(500_000_000, above=0),
    "use_multi_rank_bucket_allreduce": _bool(True),
    "allgather_partitions": _bool(True),
    "allgather_bucket_size": _int(500_000_000, at_least=0),
    "overlap_comm": _bool(None),  # None: true at stage 3, else false
    "compute_grad_norm": _bool(True),
    "load_from_fp32_weights": _bool(True),
    "elastic_checkpoint": _bool(False),
    "offload_param": _section(OFFLOAD_PARAM),
    "offload_optimizer": _section(OFFLOAD_OPTIMIZER),
    "sub_group_size": _int(1_000_000_000, at_least=0),
    "stage3_prefetch_bucket_size": _int(50_000_000, at_least=0),
    "stage3_param_persistence_threshold": _int(100_000, at_least=0),
    "stage3_model_persistence_threshold": _int(sys.maxsize, at_least=0),
    "stage3_max_live_parameters": _int(1_000_000_000, at_least=0),
    "stage3_max_reuse_distance": _int(1_000_000_000, at_least=0),
    "stage3_gather_16bit_weights_on_model_save": _bool(False),
    "stage3_module_granularity_threshold": _int(0),
    "stage3_use_all_reduce_for_fetch_params": _bool(False),
    "stage3_allgather_sequential": _bool(False),
    "ignore_unused_parameters": _bool(True),
    "legacy_stage1": _bool(False),
    "round_robin_gradients": _bool(False),
    "parameter_alignment": _bool(False),
    "zero_hpz_partition_size": _int(1, at_least=0),
    "zero_quantized_weights": _bool(False),
    "zero_quantized_nontrainable_weights": _bool(False),
    "zero_quantized_gradients": _bool(False),
    "memory_efficient_linear": _bool(True),
    "pipeline_loading_checkpoint": _bool(False),
    "override_module_apply": _bool(True),
    "log_trace_cache_warnings": _bool(False),
    "enable_sanity_checks": _bool(False),
    "save_muon_momentum_buffer_in_memory": _bool(False),
    "leaf_module": _section(LEAF_MODULE),
}
# runtime/precision_config.py
BF16: Table = {
    "enabled": _bool(False),
    "immediate_grad_update": _bool(False),
    "check_grad_overflow": _bool(True),
    "bf16_master_weights_and_grads": _bool(False),
    "bf16_optimizer_states": _bool(False),
}
FP16: Table = {
    "enabled": _bool(False),
    "auto_cast": _bool(False),
    "loss_scale": _number(0, at_least=0),
    "initial_scale_power": _int(16),
    "loss_scale_window": _int(1000),
    "hysteresis": _int(2),
    "consecutive_hysteresis": _bool(False),
    "min_loss_scale": _int(1),
    "fp16_master_weights_and_grads": _bool(False),
}
# runtime/config.py get_torch_autocast_*
TORCH_AUTOCAST: Table = {
    "enabled": _bool(False),
    "dtype": Key("choice", None, choices=DTYPES),
    "lower_precision_safe_modules": Key("strings", None),
}
# runtime/config.py DeepSpeedConfig._initialize_params
DATA_TYPES: Table = {
    "grad_accum_dtype": Key("choice", None, choices=DTYPES),
    "param_dtype": Key("choice", None, choices=DTYPES),
    "buffer_dtype": Key("choice", None, choices=DTYPES),
    "keep_in_fp32_modules": Key("strings", "auto"),
}
# runtime/activation_checkpointing/config.py
ACTIVATION_CHECKPOINTING: Table = {
    "partition_activations": _bool(False),
    "contiguous_memory_optimization": _bool(False),
    "cpu_checkpointing": _bool(False),
    "number_checkpoints": _int(None, at_least=1),
    "synchronize_checkpoint_boundary": _bool(False),
    "profile": _bool(False),
}
# runtime/model_checkpointing/constants.py, and runtime/config.py get_checkpoint_params
CHECKPOINT_WRITER: Table = {
    "type": _choice("FAST", "FAST", "PYTHON", "MOCK", "fast", "python", "mock"),
    "io_buffer_size": _int(64 * 1024**2, above=0),
    "io_buffer_double": _bool(True),
    "show_statistics": _bool(False),
    "data_parallel": Key("choice", None, choices=("REPLICA", "SOCKET", "MACHINE", "replica", "socket", "machine")),
    "decoupled": _bool(False),
    "io_multiplier": _int(1, at_least=1),
}
CHECKPOINT: Table = {
    "tag_validation": _choice("WARN", "WARN", "IGNORE", "FAIL", "Warn", "Ignore", "Fail", "warn", "ignore", "fail"),
    "checkpoint_serialization": _bool(True),
    "load_universal": _bool(False),
    "use_node_local_storage": _bool(False),
    "parallel_write": _section({"pipeline_stage": _bool(False)}),
    "writer": _section(CHECKPOINT_WRITER),
}
# runtime/swap_tensor/constants.py
AIO: Table = {
    "block_size": _int(1_048_576, above=0),
    "queue_depth": _int(8, above=0),
    "intra_op_parallelism": _int(1, above=0),
    "single_submit": _bool(False),
    "overlap_events": _bool(True),
    "use_gds": _bool(False),
}
# monitor/config.py
FILE_MONITOR: Table = {"enabled": _bool(False), "output_path": _text(""), "job_name": _text("DeepSpeedJobName")}
WANDB: Table = {
    "enabled": _bool(False),
    "group": _text(None),
    "team": _text(None),
    "project": _text("deepspeed"),
}
COMET: Table = {
    "enabled": _bool(False),
    "samples_log_interval": _int(100),
    "project": _text(None),
    "workspace": _text(None),
    "api_key": _text(None),
    "experiment_name": _text(None),
    "experiment_key": _text(None),
    "online": _bool(None),
    "mode": _text(None),
}
# profiling/constants.py
FLOPS_PROFILER: Table = {
    "enabled": _bool(False),
    "recompute_fwd_factor": _number(0.0, at_least=0.0),
    "profile_step": _int(1),
    "module_depth": _int(-1),
    "top_modules": _int(1),
    "detailed": _bool(True),
    "output_file": _text(None),
}
# comm/constants.py
COMMS_LOGGER: Table = {
    "enabled": _bool(False),
    "prof_all": _bool(True),
    "prof_ops": Key("strings", []),
    "verbose": _bool(False),
    "debug": _bool(False),
}
# compile/config.py; deepcompile itself is refused (rules.REFUSED_WHEN_TRUE).
COMPILE: Table = {
    "deepcompile": _bool(False),
    "autoep_non_moe": _bool(False),
    "free_activation": _bool(False),
    "free_activation_threshold": _int(10 * 1024 * 1024),
    "offload_activation": _bool(False),
    "offload_activation_pin_memory": _bool(True),
    "offload_opt_states": _bool(False),
    "double_buffer": _bool(True),
    "symmetric_memory": _bool(False),
    "debug_log": _bool(False),
    "offload_parameters": _bool(False),
    "sync_before_reduce": _bool(False),
    "sync_after_reduce": _bool(False),
    "sync_before_allgather": _bool(False),
    "sync_after_allgather": _bool(False),
    "keep_int_input_tensors": _bool(True),
    "keep_all_input_tensors": _bool(False),
    "passes": Key("strings", None),
}
# utils/config.py
THROUGHPUT: Table = {"enabled": _bool(True), "synchronized": _bool(True)}
# The parameters of the optimizer that the run's YAML owns; resolve() writes them.
OPTIMIZER_PARAMS: Table = {
    "lr": _number(None, at_least=0.0, auto=True),
    "betas": Key("numbers", None, at_least=0.0, auto=True),
    "eps": _number(None, at_least=0.0, auto=True),
    "weight_decay": _number(None, at_least=0.0, auto=True),
}
OPTIMIZER: Table = {"type": _text(None), "params": _section(OPTIMIZER_PARAMS), "legacy_fusion": _bool(False)}

_COMM_DTYPE = Key("choice", None, choices=("fp32", "bf16", "fp16"))
# runtime/constants.py and the readers in runtime/config.py; sections this trainer refuses are in rules.REFUSED.
TOP: Table = {
    "train_batch_size": _int(None, above=0, auto=True),
    "train_micro_batch_size_per_gpu": _int(None, above=0, auto=True),
    "gradient_accumulation_steps": _int(None, above=0, auto=True),
    "gradient_clipping": _number(1.0, at_least=0.0, auto=True),
    "optimizer": _section(OPTIMIZER),
    "zero_optimization": _section(ZERO),
    "bf16": _section(BF16),
    "fp16": _section(FP16),
    "torch_autocast": _section(TORCH_AUTOCAST),
    "data_types": _section(DATA_TYPES),
    "communication_data_type": _COMM_DTYPE,
    "prescale_gradients": _bool(False),
    "gradient_predivide_factor": _number(1.0),
    "gradient_allreduce_op": _choice("mean", "mean", "sum"),
    "zero_allow_untested_optimizer": _bool(False),
    "zero_force_ds_cpu_optimizer": _bool(True),
    "steps_per_print": _int(None, above=0),
    "wall_clock_breakdown": _bool(False),
    "memory_breakdown": _bool(False),
    "dump_state": _bool(False),
    "log_level": Key("choice", None, choices=("debug", "info", "warning", "error", "critical")),
    "disable_allgather": _bool(False),
    "disable_python_gc": _bool(False),
    "dataloader_drop_last": _bool(False),
    "vocabulary_size": _int(None, above=0),
    "activation_checkpointing": _section(ACTIVATION_CHECKPOINTING),
    "checkpoint": _section(CHECKPOINT),
    "aio": _section(AIO),
    "tensorboard": _section(FILE_MONITOR),
    "csv_monitor": _section(FILE_MONITOR),
    "wandb": _section(WANDB),
    "comet": _section(COMET),
    "flops_profiler": _section(FLOPS_PROFILER),
    "comms_logger": _section(COMMS_LOGGER),
    "compile": _section(COMPILE),
    "timers": _section({"throughput": _section(THROUGHPUT)}),
}


def setting(ds_config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, or DeepSpeed's default."""
    *path, name = key.split(".")
    section, table = ds_config, TOP
    for part in path:
        section, table = section.get(part, {}), table[part].keys or {}
    return section.get(name, table[name].default)
