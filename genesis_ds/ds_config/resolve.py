"""Merge a run's settings with its ds_config into the complete dict that DeepSpeed gets, and say what was decided.

The run's YAML owns batch sizes, optimizer, schedule, gradient clipping and activation checkpointing; the ds_config owns
ZeRO, offload, precision and communication. Where both speak they must agree: a conflict names both sides and values.
"""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.ds_config.lint import (
    accumulates_in_fp32,
    check,
    offload_device,
    shown,
    zero_section,
    zero_stage,
)
from genesis_ds.ds_config.optimizer import Implementation, choose_implementation, write_optimizer
from genesis_ds.ds_config.precision import MasterRounding, Precision, resolve_master_rounding, resolve_precision
from genesis_ds.ds_config.schema import setting
from genesis_ds.ds_config.settings import Accelerator, RunSettings
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import ADAMW


@dataclass(frozen=True)
class Resolved:
    """What DeepSpeed gets, and what the rest of the trainer needs to know about it."""

    config: dict[str, Any]
    notes: tuple[str, ...]
    """What was decided and why, one line each."""
    precision: Precision
    zero_stage: int
    offload_optimizer: str
    offload_param: str
    gradient_accumulation_steps: int
    optimizer_implementation: Implementation
    master_rounding: MasterRounding
    """How bf16 master weights are rounded; none: they are fp32."""
    nvme_paths: tuple[Path, ...]
    """Directories that the run has to create before DeepSpeed starts; resolve() only checks that it can."""

    @property
    def offloads(self) -> bool:
        """Whether the optimizer or the weights are not on the accelerator."""
        return {self.offload_optimizer, self.offload_param} != {"none"}

    @property
    def placement(self) -> str:
        """Where what is offloaded is, for people."""
        placed = {"optimizer": self.offload_optimizer, "parameters": self.offload_param}
        there = ", ".join(f"{what} on {device}" for what, device in placed.items() if device != "none")
        return there or "nothing offloaded"

    @property
    def masters(self) -> Precision:
        """The dtype of the master weights."""
        return "fp32" if self.master_rounding == "none" else "bf16"

    @property
    def rounds_masters(self) -> bool:
        """Whether bf16 masters and moments are updated by our kernel, which loses no small update."""
        return self.master_rounding in ("stochastic", "kahan")


def resolve(
    ds_config: dict[str, Any],
    *,
    where: str,
    run: RunSettings,
    world_size: int,
    accelerator: Accelerator,
    cpu_adam_available: bool,
) -> Resolved:
    """Lint the ds_config, merge it with the run and say what was decided. Touches neither the disk nor its arguments.

    where: the file of the ds_config, for messages. Raises UserError for what lint refuses and where the two contradict.
    """
    notes = [str(finding) for finding in check(ds_config, where)]
    config = copy.deepcopy(ds_config)
    steps, of_steps = _accumulation(run, world_size)
    _write_owned(config, where, run, steps)
    rounding, of_rounding = resolve_master_rounding(config, where, run)
    if run.optimizer.weight_average and rounding != "none":
        raise UserError(
            f"{run.where}: optimizer.weight_average.kind is given, but {where} keeps bf16 master weights, in which a "
            "slow average does not move; set it to none, or take a ds_config with fp32 masters"
        )
    precision, of_precision = resolve_precision(config, where, run, accelerator)
    implementation, of_implementation = choose_implementation(
        config, where, run, accelerator=accelerator, cpu_adam_available=cpu_adam_available
    )
    write_optimizer(config, run, implementation)
    # Two device synchronisations per micro-step (utils/timer.py:231-255) for numbers that the trainer measures itself.
    config.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    _require_changeable_gradients(config, where, run)
    nvme_paths = _nvme_paths(config, where)
    bf16 = precision == "bf16"
    notes += [of_steps, of_precision, of_implementation, *(of_rounding if bf16 else ())]
    notes += _cost_notes(config, where, precision) + _checkpointing_notes(config, where, run)
    return Resolved(
        config=config,
        notes=tuple(notes),
        precision=precision,
        zero_stage=zero_stage(config),
        offload_optimizer=offload_device(config, "offload_optimizer"),
        offload_param=offload_device(config, "offload_param"),
        gradient_accumulation_steps=steps,
        optimizer_implementation=implementation,
        master_rounding=rounding if bf16 else "none",
        nvme_paths=nvme_paths,
    )


def _require_changeable_gradients(config: dict[str, Any], where: str, run: RunSettings) -> None:
    """Raise UserError for what changes gradients where the optimizer is on NVMe."""
    if offload_device(config, "offload_optimizer") != "nvme":
        return
    on_nvme = f'{where}: zero_optimization.offload_optimizer.device = "nvme"'
    if run.optimizer.grokfast:
        raise UserError(
            f"{run.where}: optimizer.grokfast.lamb is above 0, but {on_nvme}, where there is no place for its average; "
            'set lamb to 0 or the device to "cpu"'
        )
    if run.optimizer.weight_average:
        raise UserError(
            f"{run.where}: optimizer.weight_average.kind is given, but {on_nvme}, where there is no place for it; "
            'set it to none or the device to "cpu"'
        )
    if run.optimizer.perpendicular_gradient:
        raise UserError(
            f"{run.where}: optimizer.perpendicular_gradient is true, but {on_nvme}, where it has not been shown to be "
            'exact; set it to false or the device to "cpu"'
        )


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"


def _divisors(number: int) -> str:
    small = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
    return ", ".join(map(str, sorted({*small, *(number // divisor for divisor in small)})))


def _accumulation(run: RunSettings, world_size: int) -> tuple[int, str]:
    """Return gradient_accumulation_steps = global batch / (micro batch x ranks), with a note of how it came about.

    Raises UserError, with sizes that would do, where it does not divide. RunConfig has made both sizes positive.
    """
    micro, total = run.micro_batch_size, run.global_batch_size
    if total % (micro * world_size) == 0:
        steps = total // (micro * world_size)
        note = (
            f"gradient_accumulation_steps {steps} = batch.global_batch_size {total} / "
            f"(batch.micro_batch_size {micro} x {_ranks(world_size)})"
        )
        return steps, note
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


def _write_owned(config: dict[str, Any], where: str, run: RunSettings, steps: int) -> None:
    """Write what the run owns. The ds_config may leave it out, say "auto" or say the same, and nothing else."""
    owned = {
        "train_micro_batch_size_per_gpu": ("batch.micro_batch_size", run.micro_batch_size),
        "train_batch_size": ("batch.global_batch_size", run.global_batch_size),
        "gradient_accumulation_steps": ("batch.global_batch_size / (batch.micro_batch_size x ranks)", steps),
        "gradient_clipping": ("optimizer.gradient_clipping", run.gradient_clipping),
    }
    for key, (run_key, value) in owned.items():
        given = _Setting(where, key, config.get(key, "auto"))
        _require_same(given, _Setting(run.where, run_key, value))
        config[key] = value
    _require_the_runs_optimizer(config.get("optimizer", {}), where, run)


def _require_the_runs_optimizer(optimizer: dict[str, Any], where: str, run: RunSettings) -> None:
    """Raise UserError for a section of the ds_config that says another optimizer, or other settings, than the run."""
    if optimizer and run.optimizer.name != ADAMW:
        raise UserError(
            f"{where}: optimizer.type = {shown(optimizer.get('type', 'AdamW'))}, but {run.where}: optimizer.name = "
            f"{shown(run.optimizer.name)}; the run's YAML owns it: remove the section from the ds_config"
        )
    kind = optimizer.get("type", "AdamW")
    if kind.lower() not in ("adam", "adamw"):
        raise UserError(
            f'{where}: optimizer.type = {shown(kind)}: this trainer runs AdamW; write "AdamW" or remove the section, '
            f"{run.where} owns the optimizer"
        )
    for key, given in optimizer.get("params", {}).items():
        value = getattr(run.optimizer, key)
        owned_value = _Setting(run.where, f"optimizer.{key}", value)
        _require_same(_Setting(where, f"optimizer.params.{key}", given), owned_value)


@dataclass(frozen=True)
class _Setting:
    """A key of a file and its value."""

    where: str
    key: str
    value: Any

    def __str__(self) -> str:
        return f"{self.where}: {self.key} = {shown(self.value)}"


def _require_same(given: _Setting, owned: _Setting) -> None:
    """Raise UserError unless the ds_config gives what the run owns, or "auto"."""
    expected = list(owned.value) if isinstance(owned.value, tuple) else owned.value
    if given.value not in ("auto", expected):
        raise UserError(
            f"{given}, but {owned}; the run's YAML owns it: remove {given.key} from the ds_config or make them equal"
        )


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
    """Say what the chosen settings cost in memory or wear, where DeepSpeed says nothing."""
    stage, notes = zero_stage(config), []
    if stage > 0 and "reduce_bucket_size" not in zero_section(config):
        default = setting({}, "zero_optimization.reduce_bucket_size")
        gib = default * (2 if precision == "bf16" else 4) / 2**30
        notes.append(
            f"{where}: zero_optimization.reduce_bucket_size is not set: DeepSpeed's {default:.0e} elements take "
            f"{gib:.2f} GiB of VRAM; 5e7 takes a tenth"
        )
    offload = offload_device(config, "offload_optimizer")
    if precision == "bf16" and accumulates_in_fp32(config) and stage in (1, 2) and offload != "none":
        dtype = setting(config, "data_types.grad_accum_dtype")
        notes.append(
            f"{where}: data_types.grad_accum_dtype = {shown(dtype)}: gradients add up on the GPUs, 4 bytes per "
            "parameter there together, and cross PCIe once a step; by default, in bf16, at every micro-step"
        )
    if offload == "nvme":
        notes.append(
            f'{where}: zero_optimization.offload_optimizer.device = "nvme": a step moves about 28 bytes per parameter '
            "(50 GB at 1.8B parameters: 10k steps wear a disk by some 220 TB)"
        )
    return notes


def _checkpointing_notes(config: dict[str, Any], where: str, run: RunSettings) -> list[str]:
    """Say that DeepSpeed only stores this section: nothing checkpoints unless a model asks (runtime/config.py:503)."""
    return [
        f"{where}: activation_checkpointing.{key} = {shown(value)}: has no effect; DeepSpeed does nothing with the "
        f"section by itself, and activation_checkpointing in {run.where} decides"
        for key, value in config.get("activation_checkpointing", {}).items()
    ]
