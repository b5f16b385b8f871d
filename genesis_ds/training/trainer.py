"""The loop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from genesis_ds import metrics
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import RunConfig
from genesis_ds.data.loader import micro_batches
from genesis_ds.data.tasks.base import Batch, Task
from genesis_ds.engine.deepspeed import gradient_norm
from genesis_ds.engine.distributed import Ranks, from_main, gather
from genesis_ds.engine.updates import Grokfast, HeadUpdates
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.training.tally import Sums, Tally
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

    def is_complete(self, run: RunConfig) -> bool:
        """True when no step of the run is left, or no time for one."""
        return self.global_step >= run.n_steps or (run.max_hours is not None and self.hours >= run.max_hours)


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
    ) -> None:
        self.run, self.engine, self.training, self.hooks = run, engine, training, hooks
        self.checkpoints, self.state, self.ranks, self.device = checkpoints, state, ranks, device
        self.head_updates = HeadUpdates(engine)
        if run.optimizer.grokfast.is_on:
            Grokfast(engine, run.optimizer.grokfast)
        self.clock = time.monotonic() - 3600 * state.hours
        self.tally = Tally(training.tasks, device, state.unreported[ranks.rank] if state.unreported else None)

    def train(self) -> None:
        """Train from the present state to max_steps, or until max_hours are over."""
        try:
            while not self.state.is_complete(self.run):
                record = self.step()
                if record.due(self.run.log_every):
                    self.measure(record)
                for hook in self.hooks:
                    hook.on_step(record)
                self.save(record)
        finally:
            for hook in self.hooks:
                hook.close()

    def step(self) -> StepRecord:
        """One optimizer step: forward and backward of every micro-batch, then the update."""
        started = time.perf_counter()
        batch_config, n_tokens = self.run.batch, 0
        share = batch_config.global_batch_size, batch_config.micro_batch_size, self.ranks.rank, self.ranks.world_size
        self.head_updates.used.clear()
        for task, batch in micro_batches(
            self.training.mixture, self.training.tasks, self.state.consumed_samples, *share
        ):
            self.head_updates.used.add(task.name)
            self.micro_step(task, batch.to(self.device))
            n_tokens += batch.n_tokens
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.global_step += 1
        self.state.consumed_samples += batch_config.global_batch_size
        hours = (time.monotonic() - self.clock) / 3600
        self.state.hours = from_main(hours) if self.run.max_hours else hours  # all ranks stop at the same step
        return StepRecord(
            self.state.global_step,
            self.run.n_steps,
            time.perf_counter() - started,
            n_tokens,
            self.engine.get_lr()[0],
            is_last=self.state.is_complete(self.run),
        )

    def micro_step(self, task: Task, batch: Batch) -> None:
        """Forward and backward of one micro-batch; the engine updates the weights after the step's last one."""
        loss, correct = task.loss(self.engine(task.name, **batch.inputs), batch)
        self.engine.backward(loss)
        gradient_norm = self.engine.module.trunk_gradient_norm * self.engine.gradient_accumulation_steps()
        if self.engine.is_gradient_accumulation_boundary():
            for hook in self.hooks:
                hook.before_update(self.state.global_step + 1, self.run.n_steps)
        self.engine.step()
        self.tally.add(task, batch, loss, correct, gradient_norm)

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
        if (norm := gradient_norm(self.engine)) is not None:
            record.metrics[metrics.GRAD_NORM] = norm

    def save(self, record: StepRecord) -> None:
        """Where it is due: a checkpoint of everything the run needs to go on, and the weights alone."""
        policy = self.run.checkpoint
        if record.due(policy.every) or record.save_as:
            hooks = {type(hook).__name__: hook.state_dict() for hook in self.hooks}
            self.state.unreported = gather(self.tally.state())
            state = vars(self.state) | {"tasks": self.training.state_dict()}
            self.checkpoints.save(self.engine, state, hooks, record.save_as)
        if policy.weights_per_decade and record.due(0, policy.weights_per_decade):
            self.checkpoints.save_weights(self.engine, record.global_step)
