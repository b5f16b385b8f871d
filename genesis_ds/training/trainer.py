"""The training loop."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.engine.distributed import gather, max_over_ranks
from genesis_ds.engine.engine import Engine, StepResult
from genesis_ds.faults.diagnosis import Diagnosis, find_origin, why_skipped
from genesis_ds.faults.watching import faulty_weights
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.supervision.stop import Stopped
from genesis_ds.tasks.base import Batch, Losses, Task
from genesis_ds.tasks.noise import NoiseSource
from genesis_ds.tasks.positions import micro_batches, next_position, tasks_of_step
from genesis_ds.training.saving import Saver
from genesis_ds.training.state import TrainingState
from genesis_ds.training.task_stats import TaskStats, sums_of_rank
from genesis_ds.training.tasks import RunTasks


class Trainer:
    """Drives the engine through the run, one optimizer step at a time."""

    def __init__(
        self,
        run: ResolvedRun,
        *,
        engine: Engine,
        tasks: RunTasks,
        hooks: Mapping[str, Hook],
        checkpoints: CheckpointManager,
        state: TrainingState,
        request: Callable[[], int] = lambda: 0,
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        """request: the number of the signal that asks this rank to stop; 0 where none has.

        begins: called before the first step, from which on a request is answered by saving.
        """
        self.run, self.engine, self.tasks, self.hooks, self.state = run, engine, tasks, hooks, state
        self.request, self.begins, self.stopped_by = request, begins, 0.0
        self.noise = NoiseSource(run.config)
        self.stats = TaskStats(tasks.tasks, engine.device, sums_of_rank(state.unreported, engine.ranks))
        self.saver = Saver(
            run,
            engine=engine,
            tasks=tasks,
            stats=self.stats,
            hooks=hooks,
            checkpoints=checkpoints,
            state=state,
        )
        self.clock = time.monotonic() - 3600 * state.hours

    def train(self) -> Diagnosis | None:
        """Train from the present state to the last step, or until max_hours are over.

        Where too many steps in a row had no update it returns what is found to be wrong. Raises Stopped where the run
        was asked to stop, and has saved; SaveFailed where it cannot go on without saving.
        """
        with ExitStack() as closing:
            for hook in self.hooks.values():
                closing.callback(hook.close)
            for hook in self.hooks.values():
                hook.before_training(self.state.global_step)
            self.begins()
            while not self.state.is_complete(self.run):
                record = self.step()
                for hook in self.hooks.values():
                    hook.on_step(record)
                if len(self.state.skipped_in_a_row) >= self.run.config.faults.max_skipped_in_a_row:
                    return self.diagnose(record)
                self.saver.save(record)
                self.stop_if_asked(record)
        return None

    def step(self) -> StepRecord:
        """Take one optimizer step: forward and backward of every micro-batch, then the update."""
        started = time.perf_counter()
        position = next_position(self.state.consumed_samples, self.state.left_out)
        losses, n_tokens = [], 0
        for task, batch in self.micro_batches(position, self.state.global_step):
            losses.append((task.name, self.micro_step(task, batch)))
            n_tokens += batch.n_tokens
        record = self.next_record()
        for hook in self.hooks.values():
            hook.before_update(record)
        result = self.engine.step(self.heads_in_use(position))
        self.stats.end_step(result.applied)
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize()
        record.seconds, record.n_tokens = time.perf_counter() - started, n_tokens
        record.learning_rate = result.learning_rate
        self.advance(record, position, result, losses)
        if record.due(self.run.intervals.log):
            self.measure(record, result)
        return record

    def micro_batches(self, position: int, step: int) -> Iterator[tuple[Task, Batch]]:
        """Yield this rank's micro-batches of a step, the first being 0, at a global position, on its device."""
        batch, ranks = self.run.config.batch, self.engine.ranks
        found = micro_batches(
            self.tasks.mixture,
            self.tasks.tasks,
            position,
            step=step,
            global_batch_size=batch.global_batch_size,
            micro_batch_size=batch.micro_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            noise=self.noise,
        )
        for task, micro_batch in found:
            yield task, micro_batch.to(self.engine.device)

    def heads_in_use(self, position: int) -> set[str]:
        """Return the heads that the step at a global position uses, on all ranks."""
        batch = self.run.config.batch
        tasks = tasks_of_step(self.tasks.mixture, position, batch.global_batch_size, batch.micro_batch_size)
        return self.tasks.heads_of(tasks)

    def losses(self, task: Task, batch: Batch) -> Losses:
        """Return the loss of one micro-batch, and what is reported of it."""
        return task.losses(self.engine.forward(task.name, batch), batch)

    def micro_step(self, task: Task, batch: Batch) -> Tensor:
        """Run forward and backward of one micro-batch; return its loss."""
        losses = self.losses(task, batch)
        gradient_norm = self.engine.backward(losses.total)
        self.stats.add(task, batch, losses=losses, gradient_norm=gradient_norm)
        return losses.total.detach()

    def next_record(self) -> StepRecord:
        """Return the record of the step whose update follows. All ranks agree whether it is the last."""
        hours = (time.monotonic() - self.clock) / 3600
        own = [hours if self.engine.ranks.is_main else 0.0, self.request()]
        self.state.hours, self.stopped_by = max_over_ranks(own, self.engine.device)
        self.state.global_step += 1
        return StepRecord(self.state.global_step, self.run.n_steps, is_last=self.state.is_complete(self.run))

    def advance(self, record: StepRecord, position: int, result: StepResult, losses: list[tuple[str, Tensor]]) -> None:
        """Count the step that began at a global position. losses: task and loss of each micro-batch."""
        self.state.consumed_samples = position + self.run.config.batch.global_batch_size
        if result.applied:
            self.state.skipped_in_a_row = []
            return
        why = why_skipped(gather([(task, float(loss)) for task, loss in losses]))
        self.state.skipped_steps += 1
        self.state.skipped_in_a_row += [[position, self.state.consumed_samples]]
        n, most = len(self.state.skipped_in_a_row), self.run.config.faults.max_skipped_in_a_row
        record.texts[metrics.SKIPPED] = (
            f"no update at step {record.global_step}: {why}; {n} in a row, and {most} are too many"
        )
        if not record.due(self.run.intervals.log):
            record.metrics[metrics.SKIPPED_STEPS] = self.state.skipped_steps

    def measure(self, record: StepRecord, result: StepResult) -> None:
        """Record what each task gave since the last report, over all ranks, and the optimizer's figures."""
        reported = self.stats.report()
        consumed = self.tasks.mixture.consumed(self.state.consumed_samples)
        for task in self.tasks.tasks:
            tokens = metrics.of_task(metrics.TRAIN_TOKENS, task)
            self.state.tokens[task] = self.state.tokens.get(task, 0) + int(reported.get(tokens, 0))
            reported[tokens] = self.state.tokens[task]
            reported[metrics.of_task(metrics.TRAIN_SEQUENCES, task)] = consumed.get(task, 0)
        record.metrics |= reported
        if (epochs := self.tasks.epochs(self.state.consumed_samples)) is not None:
            record.metrics[metrics.EPOCH] = epochs
        record.metrics[metrics.LEARNING_RATE] = result.learning_rate
        record.metrics[metrics.GRAD_NORM] = result.gradient_norm
        record.metrics[metrics.SKIPPED_STEPS] = self.state.skipped_steps

    def diagnose(self, record: StepRecord) -> Diagnosis:
        """Return why the last step had no update. The engine is of no use for training afterwards."""
        weights = faulty_weights(self.engine)
        again = self.micro_batches(self.state.skipped_in_a_row[-1][0], record.global_step - 1)
        origin = find_origin(self.engine, ((task.name, partial(self.losses, task, batch)) for task, batch in again))
        return Diagnosis(
            record.global_step,
            skipped=self.state.skipped_in_a_row,
            reason=record.texts[metrics.SKIPPED],
            origin=origin,
            faulty_weights=weights,
            learning_rate=record.learning_rate,
        )

    def stop_if_asked(self, record: StepRecord) -> None:
        """Raise Stopped, once the step is saved, where a rank was asked to stop."""
        if self.saver.saved_step == record.global_step:  # saving may have taken long
            [self.stopped_by] = max_over_ranks([self.request()], self.engine.device)
        if self.stopped_by and not record.is_last:
            self.saver.save_before_stopping()
            raise Stopped(int(self.stopped_by), self.state.global_step)
