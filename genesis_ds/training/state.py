"""The state of a run in a checkpoint, besides that of the engine, the tasks and the hooks."""

from dataclasses import dataclass, field

from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.training.task_stats import Sums


@dataclass
class TrainingState:
    """The counters of a run, and what it remembers from step to step."""

    global_step: int = 0
    consumed_samples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    """Task -> tokens it had seen by the last report, without padding, over all ranks."""
    unreported: list[Sums] = field(default_factory=list)
    """The sums of each rank since the last report."""
    hours: float = 0.0
    """Hours of training, evaluation and saving included, in all starts."""
    measured: dict[str, float | None] = field(default_factory=dict)
    """checkpoint.best_by and its value when it was last measured; None where that was not finite."""
    skipped_steps: int = 0
    """Steps so far that had no update, for a loss or a gradient that was not finite."""
    skipped_in_a_row: list[list[int]] = field(default_factory=list)
    """The samples of the steps since the last update, as global positions [start, end)."""
    left_out: list[list[int]] = field(default_factory=list)
    """Samples that the run leaves out, since it went back to a checkpoint because of them."""
    rewinds: int = 0
    """How often the run has gone back."""

    def is_complete(self, run: ResolvedRun) -> bool:
        """Return whether no step of the run is left, or no time for one."""
        limit = run.config.max_hours
        return self.global_step >= run.n_steps or (limit is not None and self.hours >= limit)
