"""What hooks are built from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.data.run_data import Arithmetic, RunData, Text
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.memory.plan import Plan
from genesis_ds.tasks.base import Evaluation


@dataclass(frozen=True, kw_only=True)
class HookContext:
    """A run whose engine is built and whose weights are loaded."""

    run: ResolvedRun
    engine: Engine
    data: RunData
    evaluations: Mapping[str, Evaluation]
    """Task -> what judges it, in the order in which the record has them."""
    schedules: Mapping[str, EvaluationSchedule]
    """Task -> when it is judged; several may share one schedule."""
    alignment_verses: ParallelVerses | None
    """Verses of val_chapter, in two halves."""
    clustering_verses: ParallelVerses | None
    """Verses of both validation splits, in concepts."""
    plan: Plan
    sampler: HostSampler
    """A sampler that was started before the engine was built, so that the peak of that counts."""
    first_step: int
    """The step that the run goes on from."""
    metrics_file: Path
    tensorboard_directory: Path

    @property
    def arithmetic(self) -> Arithmetic:
        """The run's table, in a run of arithmetic."""
        assert isinstance(self.data, Arithmetic), "a run without text is one of arithmetic"
        return self.data

    @property
    def text(self) -> Text | None:
        """The run's text; None in a run of arithmetic."""
        return self.data if isinstance(self.data, Text) else None
