"""What is settled before an engine is built: the ds_config of this machine, the memory plan, compiled operations."""

import dataclasses
from typing import Any

import torch

from genesis_ds import ds_config
from genesis_ds.config.parse import Arguments
from genesis_ds.config.resolve import SizedRun, run_settings
from genesis_ds.engine import compiled_ops, distributed
from genesis_ds.engine.compiled_ops import OperationName
from genesis_ds.engine.meter import host_bytes
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.load import require_parts
from genesis_ds.memory.answers.advice import advise
from genesis_ds.memory.machine.hardware import GROWTH_BYTES, Hardware, format_bytes, here
from genesis_ds.memory.plan import Plan
from genesis_ds.memory.planner import AllocatorSettings, make_plan
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tasks.distillation import Teacher


def resolve_ds_config(arguments: Arguments, ranks: Ranks) -> ds_config.Resolved:
    """Return what DeepSpeed gets for this run on this machine.

    Raises UserError where it, or a class of the user's own, cannot be had.
    """
    with arguments.locating():
        require_parts(arguments.run)
    return ds_config.resolve(
        ds_config.load_ds_config(arguments.ds_config_file),
        where=arguments.ds_config_file,
        run=run_settings(arguments.run, arguments.source),
        world_size=ranks.world_size,
        accelerator=distributed.accelerator(),
        cpu_adam_available=compiled_ops.compiler_missing() is None,
    )


def require_one_optimizer(resolved: ds_config.Resolved) -> None:
    """Raise UserError on every rank when the hosts have resolved to different optimizers (one has no compiler)."""
    implementations = distributed.gather(resolved.optimizer_implementation)
    if len(set(implementations)) > 1:
        raise UserError(
            f"optimizer.implementation: auto is {' on one rank and '.join(sorted(set(implementations)))} on another; "
            "install g++ and ninja on every host, or set it to torch"
        )


def machine_of(ranks: Ranks) -> Hardware:
    """Return this machine and those like it that the run's ranks are on, with what this process holds by now."""
    hardware = dataclasses.replace(here(), gpus_per_node=ranks.local_world_size, nodes=ranks.nodes)
    if hardware.has_gpu:
        return hardware
    return dataclasses.replace(hardware, measured_process_bytes=host_bytes() + GROWTH_BYTES)


def plan_memory(run: SizedRun, arguments: Arguments, ranks: Ranks) -> Plan:
    """Return the memory plan of the run on this machine. Raises UserError where it is enforced and does not fit."""
    hardware, settings = machine_of(ranks), AllocatorSettings.from_environment()
    plan = make_plan(run, hardware, settings)
    if run.config.memory.enforce and not plan.fits:
        given: dict[str, Any] = ds_config.load_ds_config(arguments.ds_config_file)
        sized = dataclasses.replace(run.config, model=run.model)
        scenario = Scenario(
            sized,
            run_source=arguments.source,
            ds_config=given,
            ds_config_file=arguments.ds_config_file,
            hardware=hardware,
            settings=settings,
            teachers=run.teachers,
        )
        raise UserError(
            f"this run does not fit this machine: {memory_line(plan)}; {advise(scenario, plan)[0]}; "
            "see genesis-ds memory, or go on with --memory.enforce false"
        )
    return plan


def place_teacher(teacher: Teacher, run: SizedRun, plan: Plan, device: torch.device) -> None:
    """Place a run's teacher where its plan has it."""
    is_bf16 = teacher_precision(run, plan) == "bf16"
    on = device if plan.teacher == "gpu" else torch.device("cpu")
    teacher.place(on, torch.bfloat16 if is_bf16 else torch.float32)


def teacher_precision(run: SizedRun, plan: Plan) -> str:
    """Return the precision of a run's teacher: the run's on its GPU, fp32 on the host."""
    return run.ds_config.precision if plan.teacher == "gpu" else "fp32"


def memory_line(plan: Plan) -> str:
    """Return the plan in a line."""
    parts = [
        f"{name} {format_bytes(device.peak_bytes)} of {format_bytes(device.usable_bytes)} in {device.phase}"
        for name, device in (("GPU", plan.gpu), ("host", plan.host))
        if device.capacity_bytes
    ]
    return f"predicted peak: {', '.join(parts)}{'' if plan.fits else ' (does not fit)'}"


def prepare_operations(resolved: ds_config.Resolved) -> None:
    """Build what DeepSpeed would otherwise build in the middle of its initialisation, and make its directories.

    An optimizer on the host gets its share of the cores.
    """
    if resolved.offload_optimizer != "none":
        distributed.share_cores(Ranks.from_environment())
    for path in resolved.nvme_paths:
        path.mkdir(parents=True, exist_ok=True)
    for operation in operations_of(resolved):
        compiled_ops.build(operation)


def operations_of(resolved: ds_config.Resolved) -> list[OperationName]:
    """Return the compiled operations that a run takes."""
    needed: dict[OperationName, bool] = {
        "cpu_adam": resolved.optimizer_implementation == "cpu_adam",
        "bf16_adam": resolved.rounds_masters,
        "async_io": bool(resolved.nvme_paths),
        "pin_memory": resolved.offloads and AllocatorSettings.from_environment().exact_pinning,
    }
    return [name for name, is_needed in needed.items() if is_needed]
