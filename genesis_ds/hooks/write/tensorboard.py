"""The run in TensorBoard."""

import threading
from pathlib import Path
from shutil import disk_usage
from typing import Any

from genesis_ds import metrics
from genesis_ds.disk import warn
from genesis_ds.errors import named_by_user, of_path
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext

ENOUGH = 2**20
"""Free bytes of a disk that was full at which a new file is begun."""


class TensorBoard(Hook):
    """Writes every metric as a scalar, every text and event as text; what lies beyond a resumed step is purged.

    What a full disk does not take is left out, with a warning, and a new file is begun when there is room again;
    metrics.jsonl has everything.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        self.directory = directory
        self.writer: Any = None
        self.is_failing = False
        threading.excepthook = _quiet_of_disks(threading.excepthook)
        with named_by_user(directory, "output_dir"):
            self._open(purge_step=first_step + 1)

    @classmethod
    def build(cls, context: HookContext) -> "TensorBoard":
        """Return the hook of a run."""
        return cls(context.tensorboard_directory, context.first_step)

    def on_step(self, record: StepRecord) -> None:
        try:
            if self.writer is None:
                if disk_usage(self.directory).free < ENOUGH:
                    return
                self._open()
            self._write(record)
            self.writer.flush()
            self.is_failing = False
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        try:
            if self.writer:
                self.writer.close()
        except OSError as error:
            self._give_up(error)

    def _open(self, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.directory), purge_step=purge_step)

    def _write(self, record: StepRecord) -> None:
        for name, value in record.metrics.items():
            self.writer.add_scalar(name, value, record.global_step)
        for name, text in record.texts.items():
            self.writer.add_text(name, text, record.global_step)
        for curve, events in record.events.items():
            for event in events:
                self.writer.add_text(metrics.of_curve(curve, event.kind), event.reason, record.global_step)

    def _give_up(self, error: OSError) -> None:
        """Leave this file: the writer's thread has ended, and raises the same error at every call."""
        self.writer = None
        if not self.is_failing:
            warn(f"TensorBoard: {of_path(error, self.directory)}; what is reported until there is room is left out")
        self.is_failing = True


def _quiet_of_disks(before: Any) -> Any:
    """Return an excepthook that is silent for an OSError in the writer's thread, which the hook hears of anyway."""

    def excepthook(arguments: Any) -> None:
        if not (isinstance(arguments.exc_value, OSError) and "tensorboard" in type(arguments.thread).__module__):
            before(arguments)

    return excepthook
