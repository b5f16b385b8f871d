"""When a run is saved, and when a save that failed is tried again."""

import json
import math
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
        self.retry = Retry()
        self.saved_step: int | None = state.global_step
        """The step of the checkpoint that was made last or is being written; None where that one failed."""

    def save(self, record: StepRecord) -> None:
        """Save what is due at the step. Raises SaveFailed where the run cannot go on unsaved."""
        policy = self.run.config.checkpoint
        if policy.best_by and (value := record.metrics.get(policy.best_by)) is not None:
            self.state.measured = {policy.best_by: value if math.isfinite(value) else None}
        if record.save_as and not re.fullmatch(r"[\w-]+", record.save_as):
            raise ValueError(f"save_as {record.save_as!r} is no name of a checkpoint; use letters, digits, _ and -")
        saves = record.due(self.run.intervals.checkpoint) or bool(record.save_as)
        saves = saves or self.retry.is_due(record.global_step)
        waits = bool(self.state.skipped_in_a_row) and not record.is_last  # the last good one is from before the faults
        weights_due = bool(policy.weights_per_decade) and record.due(0, policy.weights_per_decade)
        weights_due = weights_due or (self.retry.weights and saves and not waits)
        self._complete(wait=saves and not waits)
        save_as = record.save_as or self.retry.save_as
        try:
            if saves and waits:
                self.retry = replace(self.retry, step=record.global_step + 1, save_as=save_as)
            elif saves:
                self._save(save_as)
            if record.is_last:
                self.checkpoints.finish()
            if weights_due:
                self.checkpoints.save_weights(self.engine, record.global_step)
                self.retry = replace(self.retry, weights=False)
        except SaveFailed as error:
            self._try_again(error, may_wait=not record.is_last, weights=weights_due)

    def save_before_stopping(self) -> None:
        """Save the present step, unless it is saved. Raises SaveFailed."""
        self._complete(wait=True)
        if self.saved_step != self.state.global_step:
            self._save(self.retry.save_as)
            self.checkpoints.finish()

    def _complete(self, wait: bool) -> None:
        """Complete the checkpoint in the background, if it is written. wait: until it is, as another one follows."""
        try:
            if wait:
                self.checkpoints.finish()
            else:
                self.checkpoints.poll()
        except SaveFailed as error:
            self._try_again(error, at_once=wait)

    def _save(self, save_as: str | None) -> None:
        best_by = self.run.config.checkpoint.best_by
        if best_by and best_by not in self.state.measured and self.engine.ranks.is_main:
            unknown = f"checkpoint.best_by: nothing named {best_by} has been measured so far"
            print(f"warning: {unknown}; metrics.jsonl has the names", file=sys.stderr, flush=True)
        self.state.unreported = gather(self.stats.state())
        state: dict[str, Any] = vars(self.state) | {"tasks": self.tasks.state_dict()}
        hooks = hook_states(self.hooks)
        value = self.state.measured.get(best_by) if best_by else None
        masters = self.run.ds_config.masters
        snapshot = Snapshot(self.run.to_dict(), state, hooks=hooks, save_as=save_as, value=value, masters=masters)
        self.checkpoints.save(self.engine, snapshot)
        self.retry, self.saved_step = Retry(), self.state.global_step

    def _try_again(
        self, error: SaveFailed, *, at_once: bool = False, may_wait: bool = True, weights: bool = False
    ) -> None:
        """Have what could not be saved tried again, under its name.

        weights: the weights alone too. Raises SaveFailed where the run must stop, or may_wait is not set.
        """
        step, save_as = self.state.global_step, self.retry.save_as
        again = step if at_once else step + max(1, self.run.intervals.checkpoint // 10)
        if failed := error.snapshot:
            self.saved_step, save_as, step = None, failed.save_as or save_as, failed.state["global_step"]
        if self.run.config.checkpoint.on_failure == "stop" or not may_wait:
            stops = f"step {step} is not saved: {error}; then the same command goes on"
            raise SaveFailed(f"{stops} from the last checkpoint") from error
        self.retry = Retry(again, save_as, self.retry.weights or weights)
        if self.engine.ranks.is_main:
            warning = f"NOT SAVED at step {step}: {error}; trying again at step {again}"
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
