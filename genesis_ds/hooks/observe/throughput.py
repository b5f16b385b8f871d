"""Speed of training."""

import torch

from genesis_ds import metrics
from genesis_ds.engine.distributed import sum_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext


class Throughput(Hook):
    """Measures tokens per second, padding left out, of all ranks over the optimizer steps since the last report.

    Evaluation and saving do not count.
    """

    def __init__(self, every: int, device: torch.device) -> None:
        self.every, self.device = every, device
        self.steps, self.tokens, self.seconds = 0, 0, 0.0

    @classmethod
    def build(cls, context: HookContext) -> "Throughput":
        """Return the hook of a run."""
        return cls(context.run.intervals.log, context.engine.device)

    def on_step(self, record: StepRecord) -> None:
        self.steps += 1
        self.tokens += record.n_tokens
        self.seconds += record.seconds
        if record.due(self.every):
            (tokens,) = sum_over_ranks([self.tokens], self.device)
            record.metrics[metrics.TOKENS_PER_SECOND] = tokens / self.seconds
            record.metrics[metrics.STEP_SECONDS] = self.seconds / self.steps
            self.steps, self.tokens, self.seconds = 0, 0, 0.0
