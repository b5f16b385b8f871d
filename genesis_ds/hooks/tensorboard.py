"""The run in TensorBoard."""

from pathlib import Path

from genesis_ds import metrics
from genesis_ds.hooks.base import Hook, StepRecord


class TensorBoard(Hook):
    """Every metric as a scalar, every text and event as text; what lies beyond a resumed step is purged."""

    def __init__(self, directory: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory), purge_step=first_step + 1)

    def on_step(self, record: StepRecord) -> None:
        for name, value in record.metrics.items():
            self.writer.add_scalar(name, value, record.global_step)
        for name, text in record.texts.items():
            self.writer.add_text(name, text, record.global_step)

        for curve, events in record.events.items():
            for event in events:
                self.writer.add_text(metrics.of_curve(curve, event.kind), event.reason, record.global_step)

    def close(self) -> None:
        self.writer.close()
