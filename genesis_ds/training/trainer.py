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
from genesis_ds.data.tasks.lm import LanguageModelling
from genesis_ds.engine.deepspeed import gradient_norm
from genesis_ds.engine.distributed import Ranks, gather, sum_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord


@dataclass
class TrainingState:
    """Where a run stands."""

    global_step: int = 0
    consumed_samples: int = 0
    unreported_losses: list[float] = field(default_factory=list)
    """The sum of the micro-batches' losses since the last report, per rank."""
    n_unreported: int = 0
    """How many micro-batches each rank has in its sum."""


class Trainer:
    """Drives the engine through the run, one optimizer step at a time."""

    def __init__(
        self,
        run: RunConfig,
        engine: Any,
        task: LanguageModelling,
        hooks: Sequence[Hook],
        checkpoints: CheckpointManager,
        state: TrainingState,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self.run, self.engine, self.task, self.hooks = run, engine, task, hooks
        self.checkpoints, self.state, self.ranks, self.device = checkpoints, state, ranks, device
        unreported = state.unreported_losses or [0.0] * ranks.world_size
        self.loss_sum = torch.tensor(unreported[ranks.rank], device=device, dtype=torch.float32)

    def train(self) -> None:
        """Train from the present state to max_steps."""
        try:
            while self.state.global_step < self.run.max_steps:
                record = self.step()
                if record.due(self.run.log_every):
                    self.measure(record)
                for hook in self.hooks:
                    hook.on_step(record)
                if record.due(self.run.checkpoint.every):
                    self.save()
        finally:
            for hook in self.hooks:
                hook.close()

    def step(self) -> StepRecord:
        """One optimizer step: forward and backward of every micro-batch, then the update."""
        started = time.perf_counter()
        batch = self.run.batch
        share = (batch.global_batch_size, batch.micro_batch_size, self.ranks.rank, self.ranks.world_size)
        for micro_batch in micro_batches(self.task, self.state.consumed_samples, *share):
            loss = self.engine(**{name: tensor.to(self.device) for name, tensor in micro_batch.items()})
            self.engine.backward(loss)
            self.engine.step()
            self.loss_sum += loss.detach()
            self.state.n_unreported += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.state.global_step += 1
        self.state.consumed_samples += batch.global_batch_size
        return StepRecord(self.state.global_step, self.run.max_steps, time.perf_counter() - started)

    def measure(self, record: StepRecord) -> None:
        """The loss since the last report, over all ranks, and the optimizer's figures."""
        loss, n = sum_over_ranks([float(self.loss_sum), self.state.n_unreported], self.device)
        self.loss_sum.zero_()
        self.state.n_unreported = 0
        record.metrics[metrics.TRAIN_LOSS] = loss / n
        record.metrics[metrics.EPOCH] = self.state.consumed_samples / self.task.windows_per_epoch
        record.metrics[metrics.LEARNING_RATE] = self.engine.get_lr()[0]
        if (norm := gradient_norm(self.engine)) is not None:
            record.metrics[metrics.GRAD_NORM] = norm

    def save(self) -> None:
        """A checkpoint of everything the run needs to go on."""
        hooks = {type(hook).__name__: hook.state_dict() for hook in self.hooks}
        self.state.unreported_losses = gather(float(self.loss_sum))
        self.checkpoints.save(self.engine, vars(self.state), hooks)
