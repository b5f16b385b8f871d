"""The run in TensorBoard."""

import re
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from shutil import disk_usage
from typing import Any

from genesis_ds import metrics
from genesis_ds.config.parse import leaves
from genesis_ds.disk import warn
from genesis_ds.errors import named_by_user, of_path
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import LM

ENOUGH = 2**20
"""Free bytes of a disk that was full at which a new file is begun."""


LEFT_OUT = (metrics.CHANCE, metrics.TRIALS)
"""Endings of the names of what never changes and would be a card of its own; metrics.jsonl has it."""
LAYOUT = {
    "text": {
        **{
            f"bits per byte, {split}": [f"val/{split}/[^/]+/{metrics.BITS_PER_BYTE}$"]
            for split in ("val_chapter", "val_book", metrics.TRAIN_SUBSET)
        },
        "known by heart": [rf"{metrics.MEMORISATION}/[^/]+/{metrics.EXTRACTED}$"],
        "foreseen connectives": ["val/val_chapter/[^/]+/connectives$"],
    },
    "tasks": {
        "accuracy, val_chapter": [r"val/val_chapter/([^/]+/)+accuracy$"],
        "mean reciprocal rank, val_chapter": [r"val/val_chapter/([^/]+/)+mrr$"],
        "training loss": [f"{metrics.TRAIN_LOSS}(/|$)"],
    },
    "hidden states": {
        "alignment (Procrustes)": [rf"{metrics.ALIGNMENT}/[^/]+/layer_\d+/procrustes$"],
        "retrieval of verses": [rf"{metrics.ALIGNMENT}/[^/]+/layer_\d+/mrr$"],
        "concepts (V-measure)": [rf"{metrics.CLUSTERING}/layer_\d+/v_measure$"],
    },
    "run": {
        "learning rate": [f"{metrics.LEARNING_RATE}$"],
        "gradient norm": [f"{metrics.GRAD_NORM}$"],
        "tokens a second": [f"{metrics.TOKENS_PER_SECOND}$"],
    },
}
"""Category -> chart -> the measures in it, as regular expressions: one chart for all languages."""


class TensorBoard(Hook):
    """Writes every metric as a scalar, every text and event as text; what lies beyond a resumed step is purged.

    CUSTOM SCALARS has one chart for each measure with all languages, HPARAMS what the run's configuration is. What a
    full disk does not take is left out, with a warning, and a new file is begun when there is room again;
    metrics.jsonl has everything.
    """

    def __init__(
        self,
        directory: Path,
        first_step: int,
        *,
        configuration: Mapping[str, Any] | None = None,
        judged_by: Collection[str] = (),
    ) -> None:
        """configuration: nested. judged_by: names of the metrics that HPARAMS puts beside it."""
        self.directory = directory
        self.configuration, self.judged_by = configuration or {}, judged_by
        self.writer: Any = None
        self.is_failing = False
        with named_by_user(directory, "output_dir"):
            self._open(purge_step=first_step + 1)
        self.excepthook_before = threading.excepthook
        threading.excepthook = _quiet_of_disks(self.excepthook_before)

    @classmethod
    def build(cls, context: HookContext) -> "TensorBoard":
        """Return the hook of a run."""
        split = context.run.config.grokking.split
        languages = context.text.token_set.languages if context.text and LM in context.run.tasks else []
        judged_by = [metrics.bits_per_byte(split, language) for language in languages]
        return cls(
            context.tensorboard_directory,
            context.first_step,
            configuration=context.run.to_dict(),
            judged_by=judged_by or [metrics.TRAIN_LOSS],
        )

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
        threading.excepthook = self.excepthook_before

    def _open(self, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        order_files(self.directory, int(time.time()))
        self.writer = SummaryWriter(str(self.directory), purge_step=purge_step)
        self.writer.add_custom_scalars(
            {
                category: {chart: ["Multiline", tags] for chart, tags in charts.items()}
                for category, charts in LAYOUT.items()
            }
        )
        settings = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in leaves(dict(self.configuration))
            if value is not None
        }
        for summary in hparams(settings, dict.fromkeys(self.judged_by, 0.0))[:2]:
            self.writer.file_writer.add_summary(summary)

    def _write(self, record: StepRecord) -> None:
        for name, value in record.metrics.items():
            if not name.endswith(LEFT_OUT):
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


def order_files(directory: Path, now: int) -> None:
    """Rename files of events so that one which is begun now comes last, also where the clock was set back.

    TensorBoard reads the files of a run in the order of their names, which begin with the second of their making.
    now: seconds since 1970.
    """
    found = [(at, file) for file in directory.glob("events.out.tfevents.*") if (at := _MADE.match(file.name))]
    limit = now - 1
    for at, file in sorted(found, key=lambda each: (int(each[0][1]), each[1].name), reverse=True):
        made = min(int(at[1]), limit)
        if made != int(at[1]):
            file.rename(file.with_name(f"events.out.tfevents.{made:010}{file.name[at.end() :]}"))
        limit = made - 1


_MADE = re.compile(r"events\.out\.tfevents\.(\d+)")
