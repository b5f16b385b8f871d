"""Speed."""

from genesis_ds import metrics
from genesis_ds.hooks.base import Hook, StepRecord


class Throughput(Hook):
    """Tokens per second over whole optimizer steps since the last report; evaluation and saving do not count."""

    def __init__(self, tokens_per_step: int, every: int) -> None:
        self.tokens_per_step, self.every = tokens_per_step, every
        self.steps, self.seconds = 0, 0.0

    def on_step(self, record: StepRecord) -> None:
        self.steps += 1
        self.seconds += record.seconds
        if record.due(self.every):
            record.metrics[metrics.TOKENS_PER_SECOND] = self.steps * self.tokens_per_step / self.seconds
            record.metrics[metrics.STEP_SECONDS] = self.seconds / self.steps
            self.steps, self.seconds = 0, 0.0
