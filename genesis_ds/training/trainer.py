"""The loop."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.checkpoint.save.manager import CheckpointManager, SaveFailed, Snapshot
from genesis_ds.config import RunConfig
from genesis_ds.config.durations import steps
from genesis_ds.engine.distributed import Ranks, gather, max_over_ranks
from genesis_ds.engine.engine import gradient_norm
from genesis_ds.engine.optimizer_hooks import FiniteUpdates, Grokfast, HeadUpdates
from genesis_ds.faults.diagnosis import Diagnosis, find_origin, why_skipped
from genesis_ds.faults.watching import faulty_weights
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.supervision.stop import Stopped
from genesis_ds.tasks.base import Batch, Task
from genesis_ds.tasks.positions import micro_batches, next_position, tasks_of_step
from genesis_ds.training.task_stats import Sums, TaskStats, of_rank
from genesis_ds.training.tasks import RunTasks


@dataclass
class TrainingState:
    """Where a run stands."""

    global_step: int = 0
    consumed_samples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    """Task -> tokens it had seen by the last report, without padding, over all ranks."""
    unreported: list[Sums] = field(default_factory=list)
    """What has happened since the last report, per rank."""
    hours: float = 0.0
    """Of training, evaluation and saving included, in all starts."""
    measured: dict[str, float] = field(default_factory=dict)
    """checkpoint.best_by and its value when it was last measured."""
    skipped_steps: int = 0
    """Steps so far that had no update, for a loss or a gradient that was not finite."""
    skipped_in_a_row: list[list[int]] = field(default_factory=list)
    """The samples of those since the last update, as global positions [start, end)."""
    left_out: list[list[int]] = field(default_factory=list)
    """Samples that the run leaves out, since it went back to a checkpoint because of them."""
    rewinds: int = 0
    """How often it has."""

    def is_complete(self, run: RunConfig) -> bool:
        """True when no step of the run is left, or no time for one."""
        return self.global_step >= run.n_steps or (run.max_hours is not None and self.hours >= run.max_hours)


@dataclass(frozen=True)
class Retry:
    """When a checkpoint that could not be written is tried again, and under which name."""

    step: int | None = None
    save_as: str | None = None
    weights: bool = False
    """The weights alone as well, in the place of those of an earlier step."""

    def is_due(self, global_step: int) -> bool:
        """True at the step and after it."""
        return self.step is not None and global_step >= self.step


class Trainer:
    """Drives the engine through the run, one optimizer step at a time."""

    def __init__(
        self,
        run: RunConfig,
        engine: Any,
        training: RunTasks,
        hooks: Sequence[Hook],
        checkpoints: CheckpointManager,
        state: TrainingState,
        ranks: Ranks,
        device: torch.device,
        request: Callable[[], int] = lambda: 0,
    ) -> None:
        """request: the number of the signal that asks this rank to stop; 0 where none has."""
        self.run, self.engine, self.training, self.hooks = run, engine, training, hooks
        self.checkpoints, self.state, self.ranks, self.device = checkpoints, state, ranks, device
        self.finite_updates = FiniteUpdates(engine)
        self.head_updates = HeadUpdates(engine)
        if run.optimizer.grokfast.is_on:
            Grokfast(engine, run.optimizer.grokfast)
        self.retry = Retry()
        self.request, self.stopped_by, self.saved_step = request, 0.0, state.global_step
        self.clock = time.monotonic() - 3600 * state.hours
        self.tally = TaskStats(training.tasks, device, of_rank(state.unreported, ranks))

    def train(self) -> Diagnosis | None:
        """Train from the present state to max_steps, or until max_hours are over; or until too many steps in a row
        had no update, with what is found to be wrong. Raises Stopped where it was asked to stop, and has saved.
        """
        try:
            while not self.state.is_complete(self.run):
                record = self.step()
                if record.due(self.run.log_every):
                    self.measure(record)
                for hook in self.hooks:
                    hook.on_step(record)
                if len(self.state.skipped_in_a_row) >= self.run.faults.max_skipped_in_a_row:
                    return self.diagnose(record)
                self.save(record)
                if self.saved_step == record.global_step:  # which may have taken long
                    [self.stopped_by] = max_over_ranks([self.request()], self.device)
                if self.stopped_by and not record.is_last:
                    self.stop()
        finally:
            for hook in self.hooks:
                hook.close()
        return None

    def step(self) -> StepRecord:
        """One optimizer step: forward and backward of every micro-batch, then the update."""
        started, n_tokens = time.perf_counter(), 0
        position = next_position(self.state.consumed_samples, self.state.left_out)
        losses: list[tuple[str, Tensor]] = []
        sizes = self.run.batch.global_batch_size, self.run.batch.micro_batch_size
        self.head_updates.used = self.training.heads_of(tasks_of_step(self.training.mixture, position, *sizes))
        for task, batch in self.micro_batches(position):
            losses.append((task.name, self.micro_step(task, batch)))
            n_tokens += batch.n_tokens
        self.tally.end_step(self.engine.was_step_applied())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.global_step += 1
        self.state.consumed_samples = position + self.run.batch.global_batch_size
        hours = (time.monotonic() - self.clock) / 3600
        own = [hours if self.ranks.is_main else 0.0, self.request()]
        self.state.hours, self.stopped_by = max_over_ranks(own, self.device)  # all ranks stop at the same step
        record = StepRecord(
            self.state.global_step,
            self.run.n_steps,
            time.perf_counter() - started,
            n_tokens,
            self.engine.get_lr()[0],
            is_last=self.state.is_complete(self.run),
        )
        if self.engine.was_step_applied():
            self.state.skipped_in_a_row = []
        else:
            self.count_skipped(record, position, why_skipped(gather([(task, float(loss)) for task, loss in losses])))
        return record

    def micro_batches(self, position: int) -> Iterator[tuple[Task, Batch]]:
        """This rank's of the step at a global position, on its device."""
        sizes = self.run.batch.global_batch_size, self.run.batch.micro_batch_size
        share = self.ranks.rank, self.ranks.world_size
        for task, batch in micro_batches(self.training.mixture, self.training.tasks, position, *sizes, *share):
            yield task, batch.to(self.device)

    def loss(self, task: Task, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Of one micro-batch, and which of its examples are right where the task knows that."""
        outputs = self.engine(task.name, **batch.inputs)
        loss, correct = task.loss(outputs.output, batch)
        return outputs.keep_idle(loss), correct

    def micro_step(self, task: Task, batch: Batch) -> Tensor:
        """Forward and backward of one micro-batch; the engine updates the weights after the step's last one.

        Returns the loss. One that is not finite makes every gradient so, and the engine leaves the update out.
        """
        loss, correct = self.loss(task, batch)
        self.engine.backward(loss * (1 + 0 * loss.detach()))
        gradient_norm = self.engine.module.trunk_gradient_norm * self.engine.gradient_accumulation_steps()
        if self.engine.is_gradient_accumulation_boundary():
            self.finite_updates.check()
            for hook in self.hooks:
                hook.before_update(self.state.global_step + 1, self.run.n_steps)
        self.engine.step()
        self.tally.add(task, batch, loss, correct, gradient_norm)
        return loss.detach()

    def count_skipped(self, record: StepRecord, position: int, why: str) -> None:
        """A step at a global position had no update."""
        self.state.skipped_steps += 1
        self.state.skipped_in_a_row += [[position, self.state.consumed_samples]]
        in_a_row = (
            f"{len(self.state.skipped_in_a_row)} in a row, and {self.run.faults.max_skipped_in_a_row} are too many"
        )
        record.metrics[metrics.SKIPPED_STEPS] = self.state.skipped_steps
        record.texts[metrics.SKIPPED] = f"no update at step {record.global_step}: {why}; {in_a_row}"

    def diagnose(self, record: StepRecord) -> Diagnosis:
        """Why the last step had no update. The engine is of no use for training afterwards."""
        weights = faulty_weights(self.engine)
        again = self.micro_batches(self.state.skipped_in_a_row[-1][0])
        origin = find_origin(self.engine, ((task.name, partial(self.loss, task, batch)) for task, batch in again))
        why, rate = record.texts[metrics.SKIPPED], record.learning_rate
        return Diagnosis(record.global_step, self.state.skipped_in_a_row, why, origin, weights, rate)

    def measure(self, record: StepRecord) -> None:
        """What each task gave since the last report, over all ranks, and the optimizer's figures."""
        record.metrics |= self.tally.report()
        consumed = self.training.mixture.consumed(self.state.consumed_samples)
        for task in self.training.tasks:
            tokens = metrics.of_task(metrics.TRAIN_TOKENS, task)
            self.state.tokens[task] = self.state.tokens.get(task, 0) + int(record.metrics.get(tokens, 0))
            record.metrics[tokens] = self.state.tokens[task]
            record.metrics[metrics.of_task(metrics.TRAIN_SEQUENCES, task)] = consumed.get(task, 0)
        if (epochs := self.training.epochs(self.state.consumed_samples)) is not None:
            record.metrics[metrics.EPOCH] = epochs
        record.metrics[metrics.LEARNING_RATE] = record.learning_rate
        record.metrics[metrics.GRAD_NORM] = gradient_norm(self.engine)
        record.metrics[metrics.SKIPPED_STEPS] = self.state.skipped_steps

    def save(self, record: StepRecord) -> None:
        """Where it is due: a checkpoint of everything the run needs to go on, and the weights alone."""
        policy = self.run.checkpoint
        if policy.best_by in record.metrics:
            self.state.measured = {policy.best_by: record.metrics[policy.best_by]}
        saves = record.due(policy.every) or bool(record.save_as) or self.retry.is_due(record.global_step)
        waits = bool(self.state.skipped_in_a_row) and not record.is_last  # the last good one is from before the faults
        weights_due = bool(policy.weights_per_decade) and record.due(0, policy.weights_per_decade)
        weights_due = weights_due or (self.retry.weights and saves and not waits)
        try:
            self.checkpoints.poll()
            if saves and waits:
                self.retry = replace(
                    self.retry, step=record.global_step + 1, save_as=record.save_as or self.retry.save_as
                )
            elif saves:
                self.save_checkpoint(record.save_as or self.retry.save_as)
            if weights_due:
                self.checkpoints.save_weights(self.engine, record.global_step)
                self.retry = replace(self.retry, weights=False)
            if record.is_last:
                self.checkpoints.finish()
        except SaveFailed as error:
            if policy.on_failure == "stop" or record.is_last:
                stops = f"step {record.global_step} is not saved: {error}; then the same command goes on"
                raise SaveFailed(f"{stops} from the last checkpoint") from error
            again = record.global_step + max(1, steps(policy.every) // 10)
            self.retry = Retry(again, record.save_as or self.retry.save_as, self.retry.weights or weights_due)
            if self.ranks.is_main:
                warning = f"NOT SAVED at step {record.global_step}: {error}; trying again at step {again}"
                print(f"warning: {warning}, until then older checkpoints stand", file=sys.stderr, flush=True)

    def stop(self) -> NoReturn:
        """Save what the run needs to go on, and end it. Raises Stopped, or SaveFailed."""
        if self.saved_step != self.state.global_step:
            self.save_checkpoint(self.retry.save_as)
        self.checkpoints.finish()
        raise Stopped(int(self.stopped_by), self.state.global_step)

    def save_checkpoint(self, save_as: str | None = None) -> None:
        """A checkpoint of the present step. Raises SaveFailed."""
        best_by = self.run.checkpoint.best_by
        value = self.state.measured.get(best_by) if best_by else None
        if best_by and value is None and self.ranks.is_main:
            unknown = f"checkpoint.best_by: nothing named {best_by} has been measured so far"
            print(f"warning: {unknown}; metrics.jsonl has the names", file=sys.stderr, flush=True)
        hooks = {type(hook).__name__: hook.state_dict() for hook in self.hooks}
        self.state.unreported = gather(self.tally.state())
        state = vars(self.state) | {"tasks": self.training.state_dict()}
        self.checkpoints.save(self.engine, Snapshot(self.run, state, hooks, save_as, value))
        self.retry, self.saved_step = Retry(), self.state.global_step
