"""The run in TensorBoard."""

import sys
from pathlib import Path
from typing import Any

from genesis_ds import metrics
from genesis_ds.hooks.base import Hook, StepRecord


class TensorBoard(Hook):
    """Every metric as a scalar, every text and event as text; what lies beyond a resumed step is purged.

    A disk that takes no more ends it, with a warning; metrics.jsonl has everything.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(directory), purge_step=first_step + 1)

    def on_step(self, record: StepRecord) -> None:
        if self.writer:
            try:
                self._write(record)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        if self.writer:
            try:
                self.writer.close()
            except OSError as error:
                self._give_up(error)

    def _write(self, record: StepRecord) -> None:
        for name, value in record.metrics.items():
            self.writer.add_scalar(name, value, record.global_step)
        for name, text in record.texts.items():
            self.writer.add_text(name, text, record.global_step)
        for curve, events in record.events.items():
            for event in events:
                self.writer.add_text(metrics.of_curve(curve, event.kind), event.reason, record.global_step)

    def _give_up(self, error: OSError) -> None:
        self.writer = None
        print(f"warning: TensorBoard: {error.strerror}; nothing more is written to it", file=sys.stderr, flush=True)
