"""A run as it is trained: every size, duration and setting that its configuration leaves open is known.

A RunConfig says what the user wrote. A SizedRun knows the model's sizes, the tasks and what DeepSpeed gets: enough for
a memory plan. A ResolvedRun knows the steps as well, which take the data; it is made once, inside the process group.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from genesis_ds.config import ModelShape, RunConfig, durations
from genesis_ds.config.checks import require_duration
from genesis_ds.config.schedule import Schedule
from genesis_ds.ds_config import OptimizerSettings, Resolved, RunSettings


def run_settings(config: RunConfig, where: str) -> RunSettings:
    """Return the settings of a run that its ds_config must agree with. where: the run's file, for messages."""
    given = config.optimizer
    optimizer = OptimizerSettings(
        name=given.name,
        lr=given.lr,
        betas=(given.betas[0], given.betas[1]),
        eps=given.eps,
        weight_decay=given.weight_decay,
        implementation=given.implementation,
        grokfast=given.grokfast.is_on,
        weight_average=given.weight_average.is_on,
        perpendicular_gradient=given.perpendicular_gradient,
        master_rounding=given.master_rounding,
    )
    return RunSettings(
        where=where,
        micro_batch_size=config.batch.micro_batch_size,
        global_batch_size=config.batch.global_batch_size,
        gradient_clipping=given.gradient_clipping,
        optimizer=optimizer,
        precision=config.precision,
    )


@dataclass(frozen=True)
class SizedRun:
    """A run whose sizes are known."""

    config: RunConfig
    """The run as it was written."""
    model: ModelShape
    ds_config: Resolved
    """The configuration that DeepSpeed gets on this accelerator."""
    tasks: tuple[str, ...]
    """The tasks that are trained, the first of them language modelling where it is one."""
    heads: tuple[str, ...]
    """The tasks with a head of their own, in the model's order."""
    teachers: tuple[ModelShape, ...] = field(default=(), kw_only=True)
    """The models that language modelling learns from (`distill`)."""


@dataclass(frozen=True)
class Intervals:
    """Optimizer steps between two logs, evaluations and so on; 0: never, or only at the end."""

    log: int
    evaluation: int
    tasks: int
    """Between evaluations of the tasks on verses."""
    samples: int
    checkpoint: int
    milestones: int
    trajectory: int
    alignment: int
    clustering: int
    connectives: int


@dataclass(frozen=True)
class ResolvedRun(SizedRun):
    """A run that is ready to be trained."""

    n_steps: int
    steps_per_epoch: float
    """Optimizer steps in an epoch of language modelling; 0 in a run without it."""
    intervals: Intervals
    schedule: Schedule

    def steps(self, duration: durations.Duration, key: str = "hooks") -> int:
        """Return a duration in optimizer steps. Raises UserError, which names the key, for what is none."""
        require_duration(key, duration)
        return durations.steps(duration, self.steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data, as a YAML would say it that leaves nothing open."""
        whole = dataclasses.replace(
            self.config, model=self.model, max_steps=self.n_steps, max_epochs=None, max_tokens=None
        )
        return dataclasses.asdict(durations.in_steps(whole, self.steps_per_epoch))


def resolve_steps(sized: SizedRun, n_steps: int, steps_per_epoch: float) -> ResolvedRun:
    """Return the run with its steps.

    steps_per_epoch: of language modelling; 0 in a run without it, whose durations are all in steps.
    """
    config = sized.config

    steps = partial(durations.steps, steps_per_epoch=steps_per_epoch)
    intervals = Intervals(
        log=steps(config.log_every),
        evaluation=steps(config.evaluation.every),
        tasks=steps(config.evaluation.tasks_every),
        samples=steps(config.samples.every),
        checkpoint=steps(config.checkpoint.every),
        milestones=steps(config.checkpoint.milestones),
        trajectory=steps(config.trajectory.every),
        alignment=steps(config.alignment.every),
        clustering=steps(config.clustering.every),
        connectives=steps(config.connectives.every),
    )
    warmup_steps = steps(config.schedule.warmup_steps)
    schedule = Schedule(
        config.schedule.kind,
        warmup_steps=warmup_steps,
        n_steps=n_steps,
        min_ratio=config.schedule.min_lr_ratio,
        decay_end_ratio=config.schedule.weight_decay_end_ratio,
    )
    of_sized = {field.name: getattr(sized, field.name) for field in dataclasses.fields(SizedRun)}
    return ResolvedRun(
        **of_sized, n_steps=n_steps, steps_per_epoch=steps_per_epoch, intervals=intervals, schedule=schedule
    )
