"""Merge a run's settings with its ds_config into the complete dict that DeepSpeed gets, and say what was decided.

The run's YAML owns batch sizes, optimizer, schedule, gradient clipping and activation checkpointing; the ds_config owns
ZeRO, offload, precision and communication. Where both speak they must agree: a conflict names both sides and values.
"""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genesis_ds.config import RunConfig
from genesis_ds.ds_config.lint import check, is_bf16, offload_device, shown, zero_section
from genesis_ds.ds_config.schema import TOP
from genesis_ds.errors import UserError

Precision = Literal["bf16", "fp32"]
Implementation = Literal["cpu_adam", "torch"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW as the run's YAML has it."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    implementation: Literal["auto", "cpu_adam", "torch"] = "auto"
    grokfast: bool = False
    master_rounding: Literal["none", "nearest"] = "none"


@dataclass(frozen=True)
class RunSettings:
    """The part of a run's YAML that meets the ds_config; messages name the keys as RunConfig nests them."""

    where: str
    """The YAML file, for messages."""
    micro_batch_size: int
    global_batch_size: int
    gradient_clipping: float
    optimizer: OptimizerSettings
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    @classmethod
    def of(cls, run: RunConfig, where: str) -> "RunSettings":
        """Those of a run read from the file `where`."""
        adamw = run.optimizer
        betas = adamw.betas[0], adamw.betas[1]
        optimizer = OptimizerSettings(
            adamw.lr,
            betas,
            adamw.eps,
            adamw.weight_decay,
            adamw.implementation,
            grokfast=adamw.grokfast.is_on,
            master_rounding=adamw.master_rounding,
        )
        batch = run.batch
        return cls(
            where, batch.micro_batch_size, batch.global_batch_size, adamw.gradient_clipping, optimizer, run.precision
        )


@dataclass(frozen=True)
class Resolved:
    """What DeepSpeed gets, and what the rest of the trainer needs to know about it."""

    config: dict[str, Any]
    notes: tuple[str, ...]
    """What was decided and why, one line each: the output of `explain`."""
    precision: Precision
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    gradient_accumulation_steps: int
    optimizer_implementation: Implementation
    nvme_paths: tuple[Path, ...]
    """Directories that the run has to create before DeepSpeed starts; resolve() only checks that it can."""


def resolve(
    ds_config: dict[str, Any],
    *,
    where: str,
    run: RunSettings,
    world_size: int,
    accelerator: Literal["cpu", "cuda"],
    cpu_adam_available: bool,
) -> Resolved:
    """Lint the ds_config, merge it with the run and explain. Touches neither the disk nor its arguments."""
    notes = [str(finding) for finding in check(ds_config, where)]
    config = copy.deepcopy(ds_config)
    steps = _accumulation(run, world_size, notes)
    _agree(config, where, run, steps)
    _require_rounding(config, where, run)
    precision = _precision(config, where, run, accelerator, notes)
    implementation = _implementation(config, where, run, accelerator, cpu_adam_available, notes)
    config["optimizer"] = _optimizer_section(run, implementation)
    if implementation == "torch" and offload_device(config, "offload_optimizer") != "none":
        # engine.py:2342-2346 asks for it when an optimizer object is handed over instead of this section.
        config["zero_force_ds_cpu_optimizer"] = False
    # Two device synchronisations per micro-step (utils/timer.py:231-255) for numbers that the trainer measures itself.
    config.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    if run.optimizer.grokfast and offload_device(config, "offload_optimizer") == "nvme":
        raise UserError(
            f"{run.where}: optimizer.grokfast.lamb is above 0, but {where}: zero_optimization.offload_optimizer.device "
            '= "nvme", where there is no place for its average; set lamb to 0 or the device to "cpu"'
        )
    nvme_paths = _nvme_paths(config, where)
    notes += _cost_notes(config, where, precision) + _checkpointing_notes(config, where, run)
    return Resolved(
        config=config,
        notes=tuple(notes),
        precision=precision,
        zero_stage=zero_section(config).get("stage", 0),
        offload_optimizer=offload_device(config, "offload_optimizer"),
        offload_param=offload_device(config, "offload_param"),
        gradient_accumulation_steps=steps,
        optimizer_implementation=implementation,
        nvme_paths=nvme_paths,
    )


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"


def _divisors(number: int) -> str:
    small = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
    return ", ".join(map(str, sorted({*small, *(number // divisor for divisor in small)})))


def _accumulation(run: RunSettings, world_size: int, notes: list[str]) -> int:
    """gradient_accumulation_steps = global batch / (micro batch x ranks); what does not divide is a UserError.

    Both batch sizes are positive: RunConfig has seen to it.
    """
    micro, total = run.micro_batch_size, run.global_batch_size
    if total % (micro * world_size) == 0:
        steps = total // (micro * world_size)
        notes.append(
            f"gradient_accumulation_steps {steps} = batch.global_batch_size {total} / "
            f"(batch.micro_batch_size {micro} x {_ranks(world_size)})"
        )
        return steps
    choices = []
    if total % world_size == 0:
        choices.append(f"batch.micro_batch_size for {_ranks(world_size)}: {_divisors(total // world_size)}")
    if total % micro == 0:
        choices.append(f"ranks for batch.micro_batch_size {micro}: {_divisors(total // micro)}")
    step = micro * world_size
    nearby = [str(multiple) for multiple in (total // step * step, (total // step + 1) * step) if multiple]
    choices.append(f"nearest batch.global_batch_size: {' or '.join(nearby)}")
    raise UserError(
        f"{run.where}: batch.global_batch_size = {total} is not a multiple of batch.micro_batch_size {micro} x "
        f"{_ranks(world_size)} = {step}; change one of them: {'; '.join(choices)}"
    )


def _agree(config: dict[str, Any], where: str, run: RunSettings, steps: int) -> None:
    """Write what the run owns. The ds_config may leave it out, say "auto" or say the same, and nothing else."""
    owned = {
        "train_micro_batch_size_per_gpu": ("batch.micro_batch_size", run.micro_batch_size),
        "train_batch_size": ("batch.global_batch_size", run.global_batch_size),
        "gradient_accumulation_steps": ("batch.global_batch_size / (batch.micro_batch_size x ranks)", steps),
        "gradient_clipping": ("optimizer.gradient_clipping", run.gradient_clipping),
    }
    for key, (run_key, value) in owned.items():
        _same(where, key, config.get(key, "auto"), run, run_key, value)
        config[key] = value
    optimizer = config.get("optimizer", {})
    kind = optimizer.get("type", "AdamW")
    if kind.lower() not in ("adam", "adamw"):
        raise UserError(
            f'{where}: optimizer.type = {shown(kind)}: this trainer runs AdamW; write "AdamW" or remove the section, '
            f"{run.where} owns the optimizer"
        )
    for key, given in optimizer.get("params", {}).items():
        value = getattr(run.optimizer, key)
        _same(where, f"optimizer.params.{key}", given, run, f"optimizer.{key}", value)


def _same(where: str, key: str, given: Any, run: RunSettings, run_key: str, value: Any) -> None:
    expected = list(value) if isinstance(value, tuple) else value
    if given != "auto" and given != expected:
        raise UserError(
            f"{where}: {key} = {shown(given)}, but {run.where}: {run_key} = {shown(expected)}; "
            f"the run's YAML owns it: remove {key} from the ds_config or make them equal"
        )


def _require_rounding(config: dict[str, Any], where: str, run: RunSettings) -> None:
    """bf16 master weights are taken only by name."""
    asked = bool(config.get("bf16", {}).get("bf16_master_weights_and_grads"))
    rounding = run.optimizer.master_rounding
    if asked and rounding == "none":
        raise UserError(
            f"{where}: bf16.bf16_master_weights_and_grads = true: DeepSpeed rounds the masters to the nearest bf16, so "
            "updates below half a step of it are lost, and at small rates most of the learning; remove it, or ask for "
            f"that by name: optimizer.master_rounding: nearest in {run.where}"
        )
    if rounding != "none" and not asked:
        raise UserError(
            f'{run.where}: optimizer.master_rounding = "{rounding}", but {where} keeps no bf16 master weights; remove '
            "it, or set bf16.bf16_master_weights_and_grads to true"
        )


def _precision(config: dict[str, Any], where: str, run: RunSettings, accelerator: str, notes: list[str]) -> Precision:
    """The dtype of the weights, written into config["bf16"]."""
    asked: bool | None = config.get("bf16", {}).get("enabled")
    if run.precision == "bf16" and asked is False:
        raise UserError(_precision_conflict(where, asked, run))
    if run.precision == "fp32" and asked and accelerator != "cpu":
        raise UserError(_precision_conflict(where, asked, run))
    if run.precision == "bf16":
        if config.get("torch_autocast", {}).get("enabled"):
            raise UserError(
                f'{run.where}: precision = "bf16", but {where}: torch_autocast.enabled = true; disable torch_autocast '
                'or set precision to "fp32", which keeps fp32 weights under autocast'
            )
        config.setdefault("bf16", {})["enabled"] = True
        notes.append(f"precision bf16: {run.where} asks for it")
        return "bf16"
    if asked and accelerator == "cuda":
        notes.append(f"precision bf16: {where}: bf16.enabled is true")
        return "bf16"
    if asked:
        dropped = _drop_bf16(config)
        reason = f"{run.where} asks for it" if run.precision == "fp32" else "bf16 is 11-13 times slower on a CPU"
        also = f" ({where}: {', '.join(dropped)} dropped with it)" if dropped else ""
        notes.append(f"precision fp32 instead of bf16 on the cpu accelerator: {reason}{also}")
    else:
        notes.append(f"precision fp32: {where} does not enable bf16")
    return "fp32"


def _precision_conflict(where: str, asked: bool | None, run: RunSettings) -> str:
    return (
        f'{run.where}: precision = "{run.precision}", but {where}: bf16.enabled = {shown(asked)}; '
        'change one of them, or set precision to "auto" to follow the ds_config'
    )


def _drop_bf16(config: dict[str, Any]) -> list[str]:
    """Turn bf16 off and remove what only makes sense with it; returns the dotted keys that were removed."""
    dropped = [f"bf16.{key}" for key in config["bf16"] if key != "enabled"]
    config["bf16"] = {"enabled": False}
    data_types = config.get("data_types", {})
    for key in ("grad_accum_dtype", "param_dtype"):
        if data_types.get(key) is not None and is_bf16(data_types[key]):
            del data_types[key]
            dropped.append(f"data_types.{key}")
    if config.get("communication_data_type") == "bf16":
        del config["communication_data_type"]
        dropped.append("communication_data_type")
    return dropped


def _implementation(
    config: dict[str, Any],
    where: str,
    run: RunSettings,
    accelerator: str,
    cpu_adam_available: bool,
    notes: list[str],
) -> Implementation:
    """Which AdamW updates the weights. "auto" takes DeepSpeedCPUAdam for an offloaded optimizer of a GPU run."""
    offloaded = offload_device(config, "offload_optimizer") != "none"
    wanted = run.optimizer.implementation
    needs = _needs_cpu_adam(config)
    if wanted == "cpu_adam" and not offloaded:
        raise UserError(
            f'{run.where}: optimizer.implementation = "cpu_adam", but {where}: zero_optimization.offload_optimizer is '
            'not set; set its device to "cpu" or "nvme", or write implementation "auto" or "torch"'
        )
    if not cpu_adam_available and (wanted == "cpu_adam" or (needs and wanted == "auto")):
        who = f'{run.where}: optimizer.implementation = "cpu_adam"' if wanted == "cpu_adam" else f"{where}: {needs}"
        raise UserError(f"{who}: needs DeepSpeedCPUAdam, which cannot be built here; {INSTALL_COMPILER}")
    if needs and wanted == "torch":
        raise UserError(
            f'{run.where}: optimizer.implementation = "torch", but {where}: {needs}: needs DeepSpeedCPUAdam; '
            'write implementation "auto" or remove the option from the ds_config'
        )
    if (
        wanted == "cpu_adam"
        or needs
        or (wanted == "auto" and offloaded and accelerator == "cuda" and cpu_adam_available)
    ):
        notes.append(f"optimizer DeepSpeedCPUAdam: {where} offloads the optimizer")
        return "cpu_adam"
    notes.append(f"optimizer torch.optim.AdamW(fused=True): {_why_torch(wanted, offloaded, accelerator)}")
    return "torch"


INSTALL_COMPILER = "install a C++ compiler and ninja: sudo apt install build-essential && pip install ninja"


def _why_torch(wanted: str, offloaded: bool, accelerator: str) -> str:
    if wanted == "torch":
        return "the run's YAML asks for it"
    if not offloaded:
        return "the optimizer is not offloaded"
    if accelerator == "cpu":
        return "the cpu accelerator needs no build for it"
    return (
        "DeepSpeedCPUAdam cannot be built here; lost without it: bf16_master_weights_and_grads and "
        f"bf16_optimizer_states; {INSTALL_COMPILER}"
    )


def _needs_cpu_adam(config: dict[str, Any]) -> str | None:
    """The setting that only DeepSpeedCPUAdam serves, as 'key = value'; None when there is none.

    stage_1_and_2.py:331-341 and stage3.py:299-311 assert it.
    """
    if offload_device(config, "offload_optimizer") == "none":
        return None
    narrow = config.get("bf16", {}).get("bf16_master_weights_and_grads")
    return "bf16.bf16_master_weights_and_grads = true" if narrow else None


def _optimizer_section(run: RunSettings, implementation: Implementation) -> dict[str, Any]:
    """DeepSpeed builds the optimizer from this: engine.py:2476-2493.

    "torch_adam" selects torch.optim.AdamW and avoids every JIT build; all other params but foreach go to its
    constructor (engine.py:2377-2382). fused=True works on CUDA and, since torch 2.4, on CPU tensors, where it took
    10.6 ms against 171 ms for 20M parameters on 2 cores: as fast as DeepSpeedCPUAdam.
    """
    adam = run.optimizer
    params: dict[str, Any] = {
        "lr": adam.lr,
        "betas": list(adam.betas),
        "eps": adam.eps,
        "weight_decay": adam.weight_decay,
    }
    if implementation == "torch":
        params |= {"torch_adam": True, "fused": True}
    return {"type": "AdamW", "params": params}


def _nvme_paths(config: dict[str, Any], where: str) -> tuple[Path, ...]:
    """Make each nvme_path absolute and check that it can be created and written; nothing is created here."""
    paths: list[Path] = []
    for section in ("offload_optimizer", "offload_param"):
        if offload_device(config, section) != "nvme":
            continue
        settings = zero_section(config)[section]
        path = Path(settings["nvme_path"]).absolute()
        existing = next(
            parent for parent in (path, *path.parents) if os.path.exists(parent)
        )  # False where it may not look
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            what = "is not a directory" if not existing.is_dir() else "is not writable"
            raise UserError(
                f'{where}: zero_optimization.{section}.nvme_path = "{settings["nvme_path"]}": {existing} {what}; '
                "name a directory that you can create on a local NVMe disk"
            )
        settings["nvme_path"] = str(path)
        paths.append(path)
    return tuple(dict.fromkeys(paths))


def _cost_notes(config: dict[str, Any], where: str, precision: Precision) -> list[str]:
    """What the chosen settings cost in memory or wear, where DeepSpeed says nothing."""
    zero, notes = zero_section(config), []
    stage = zero.get("stage", 0)
    if stage > 0 and "reduce_bucket_size" not in zero:
        default = (TOP["zero_optimization"].keys or {})["reduce_bucket_size"].default
        gib = default * (2 if precision == "bf16" else 4) / 2**30
        notes.append(
            f"{where}: zero_optimization.reduce_bucket_size is not set: DeepSpeed's {default:.0e} elements take "
            f"{gib:.2f} GiB of VRAM; 5e7 takes a tenth"
        )
    accumulate = config.get("data_types", {}).get("grad_accum_dtype")
    fp32_gradients = precision == "bf16" and accumulate is not None and not is_bf16(accumulate)
    if fp32_gradients and stage in (1, 2) and offload_device(config, "offload_optimizer") != "none":
        notes.append(
            f"{where}: data_types.grad_accum_dtype = {shown(accumulate)}: with the optimizer offloaded at stage "
            f"{stage} this still puts 4 bytes per parameter on the GPUs together; the default, bf16, does not"
        )
    if offload_device(config, "offload_optimizer") == "nvme":
        notes.append(
            f'{where}: zero_optimization.offload_optimizer.device = "nvme": a step moves about 28 bytes per parameter '
            "(50 GB at 1.8B parameters: 10k steps wear a disk by some 220 TB)"
        )
    return notes


def _checkpointing_notes(config: dict[str, Any], where: str, run: RunSettings) -> list[str]:
    """DeepSpeed only stores this section (runtime/config.py:503); nothing checkpoints unless a model asks for it."""
    return [
        f"{where}: activation_checkpointing.{key} = {shown(value)}: has no effect; DeepSpeed does nothing with the "
        f"section by itself, and activation_checkpointing in {run.where} decides"
        for key, value in config.get("activation_checkpointing", {}).items()
    ]
