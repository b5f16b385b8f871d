"""When a run is saved, and when a save that failed is tried again."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from genesis_ds.checkpoint.save.manager import CheckpointManager, SaveFailed, Snapshot
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.engine.distributed import gather
from genesis_ds.engine.engine import Engine
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.training.state import TrainingState
from genesis_ds.training.task_stats import TaskStats
from genesis_ds.training.tasks import RunTasks


@dataclass(frozen=True)
class Retry:
    """When a checkpoint that could not be written is tried again, and under which name."""

    step: int | None = None
    save_as: str | None = None
    weights: bool = False
    """Whether the weights alone are tried again as well, in the place of those of an earlier step."""

    def is_due(self, global_step: int) -> bool:
        """Return whether the checkpoint is tried again at this step."""
        return self.step is not None and global_step >= self.step


class Saver:
    """Saves everything that a run needs to go on, and the weights alone, when they are due."""

    def __init__(
        self,
        run: ResolvedRun,
        *,
        engine: Engine,
        tasks: RunTasks,
        stats: TaskStats,
        hooks: Mapping[str, Hook],
        checkpoints: CheckpointManager,
        state: TrainingState,
    ) -> None:
        self.run, self.engine, self.tasks, self.stats, self.hooks = run, engine, tasks, stats, hooks
        self.checkpoints, self.state = checkpoints, state
        self.saved_step, self.retry = state.global_step, Retry()

    def save(self, record: StepRecord) -> None:
        """Save what is due at the step. Raises SaveFailed where the run cannot go on unsaved."""
        policy = self.run.config.checkpoint
        if policy.best_by and policy.best_by in record.metrics:
            self.state.measured = {policy.best_by: record.metrics[policy.best_by]}
        if record.save_as and not re.fullmatch(r"[\w.-]+", record.save_as):
            raise ValueError(f"save_as {record.save_as!r} is no name of a checkpoint; use letters, digits, _, . and -")
        saves = record.due(self.run.intervals.checkpoint) or bool(record.save_as)
        saves = saves or self.retry.is_due(record.global_step)
        waits = bool(self.state.skipped_in_a_row) and not record.is_last  # the last good one is from before the faults
        weights_due = bool(policy.weights_per_decade) and record.due(0, policy.weights_per_decade)
        weights_due = weights_due or (self.retry.weights and saves and not waits)
        save_as = record.save_as or self.retry.save_as
        try:
            self.checkpoints.poll()
            if saves and waits:
                self.retry = replace(self.retry, step=record.global_step + 1, save_as=save_as)
            elif saves:
                self._save(save_as)
            if weights_due:
                self.checkpoints.save_weights(self.engine, record.global_step)
                self.retry = replace(self.retry, weights=False)
            if record.is_last:
                self.checkpoints.finish()
        except SaveFailed as error:
            self._try_again(error, record, save_as, weights_due)

    def save_before_stopping(self) -> None:
        """Save the present step, unless it is saved. Raises SaveFailed."""
        if self.saved_step != self.state.global_step:
            self._save(self.retry.save_as)
        self.checkpoints.finish()

    def _save(self, save_as: str | None) -> None:
        best_by = self.run.config.checkpoint.best_by
        value = self.state.measured.get(best_by) if best_by else None
        if best_by and value is None and self.engine.ranks.is_main:
            unknown = f"checkpoint.best_by: nothing named {best_by} has been measured so far"
            print(f"warning: {unknown}; metrics.jsonl has the names", file=sys.stderr, flush=True)
        self.state.unreported = gather(self.stats.state())
        state: dict[str, Any] = vars(self.state) | {"tasks": self.tasks.state_dict()}
        hooks = hook_states(self.hooks)
        snapshot = Snapshot(self.run.to_dict(), state, hooks=hooks, save_as=save_as, value=value)
        self.checkpoints.save(self.engine, snapshot)
        self.retry, self.saved_step = Retry(), self.state.global_step

    def _try_again(self, error: SaveFailed, record: StepRecord, save_as: str | None, weights: bool) -> None:
        if self.run.config.checkpoint.on_failure == "stop" or record.is_last:
            stops = f"step {record.global_step} is not saved: {error}; then the same command goes on"
            raise SaveFailed(f"{stops} from the last checkpoint") from error
        again = record.global_step + max(1, self.run.intervals.checkpoint // 10)
        self.retry = Retry(again, save_as, self.retry.weights or weights)
        if self.engine.ranks.is_main:
            warning = f"NOT SAVED at step {record.global_step}: {error}; trying again at step {again}"
            print(f"warning: {warning}, until then older checkpoints stand", file=sys.stderr, flush=True)


def hook_states(hooks: Mapping[str, Hook]) -> dict[str, Any]:
    """Return name of a hook -> its version and state, for a checkpoint.

    Raises TypeError, which names the hook, for a state that is no dict or that JSON does not take.
    """
    states = {}
    for name, hook in hooks.items():
        state = hook.state_dict()
        try:
            json.dumps(state)
        except TypeError as error:
            raise TypeError(f"the state_dict() of the hook {name} is not JSON-able: {error}") from error
        if not isinstance(state, dict):
            raise TypeError(f"the state_dict() of the hook {name} is a {type(state).__name__}; return a dict")
        if not _comes_back(state):
            raise TypeError(
                f"the state_dict() of the hook {name} does not come back from JSON as it is; return lists for tuples, "
                "and text for keys"
            )
        states[name] = {"version": hook.version, "state": state}
    return states


def _comes_back(value: Any) -> bool:
    """Return whether JSON keeps each part of a value: it makes lists of tuples, and text of numbers as keys."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _comes_back(inner) for key, inner in value.items())
    return all(map(_comes_back, value)) if isinstance(value, list) else not isinstance(value, tuple)
