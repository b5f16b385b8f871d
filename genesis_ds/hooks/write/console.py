"""The run on the console."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from io import StringIO
from math import inf, isfinite, log
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console as Screen
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from genesis_ds import metrics
from genesis_ds.config import ConsoleLevel
from genesis_ds.data.run_data import Text as RunText
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.write.measure_lines import evaluation_lines, exposure_lines, task_lines, trajectory_line
from genesis_ds.hooks.write.tables import Seen, compared, is_better, tables
from genesis_ds.model.multitask import LM

WIDTH = 128
"""Columns of a table in a file."""
REDRAWN = 0.2
"""Seconds between two pictures of the bar."""
FEW = 3
"""Samples, and curves with one kind of event, that are shown one by one at the level short."""
STYLES = {"grokking_confirmed": "bold green", "grokked": "bold green", "collapse": "bold red", "undecidable": "dim"}
"""Kind of event -> its colour; any other is yellow."""


class Console(Hook):
    """Prints a line per report, tables of an evaluation, and every event; on a terminal a bar stands below them.

    At the level full every measure follows in words; at quiet there are events alone.
    """

    def __init__(
        self,
        first_step: int,
        level: ConsoleLevel = "short",
        *,
        split: str = "",
        task: str = LM,
        bytes_per_token: float = 0,
    ) -> None:
        """split: whose bits per byte are the run's validation. task: whose loss heads the lines.

        bytes_per_token: of the training text; 0 where there is none.
        """
        self.first_step, self.level, self.split, self.task = first_step, level, split, task
        self.bytes_per_token = bytes_per_token
        self.started = time.monotonic()
        self.best, self.best_step = inf, 0
        self.last: dict[str, float] = {}
        self.best_of: dict[str, float] = {}
        is_live = is_terminal() and level != "quiet"
        self.screen = screen(is_live)
        self.bar = _Bar(self.screen) if is_live else None

    @classmethod
    def build(cls, context: HookContext) -> "Console":
        """Return the hook of a run."""
        config, tasks = context.run.config, context.run.tasks
        return cls(
            context.first_step,
            config.console,
            split=config.grokking.split,
            task=LM if LM in tasks else tasks[0],
            bytes_per_token=_bytes_per_token(context.text) if context.text and LM in tasks else 0,
        )

    def on_step(self, record: StepRecord) -> None:
        self._take_best(record)
        if self.bar:
            self.bar.show(record, self._left(record))
        self._events(record)
        if self.level != "quiet":
            self._report(record)
        found = compared(record.metrics)
        self.best_of |= {name: value for name, value in found.items() if is_better(name, value, self._best_of(name))}
        self.last |= found

    def close(self) -> None:
        if self.bar:
            self.bar.close()

    def state_dict(self) -> dict[str, Any]:
        best = [self.best, self.best_step] if isfinite(self.best) else None
        return {"best": best, "last": self.last, "best_of": self.best_of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["best"]:
            self.best, self.best_step = state["best"]
        self.last, self.best_of = state["last"], state["best_of"]

    def _best_of(self, name: str) -> float:
        return self.best_of.get(name, inf if is_better(name, 0, 1) else -inf)

    def _take_best(self, record: StepRecord) -> None:
        losses = [record.metrics[name] for name in metrics.validation_losses(record.metrics, self.split)]
        if losses and (loss := fmean(losses)) < self.best:
            self.best, self.best_step = loss, record.global_step

    def _report(self, record: StepRecord) -> None:
        measured, is_full = record.metrics, self.level == "full"
        if metrics.LEARNING_RATE in measured:
            self._line(self._progress(record))
            self._words(task_lines(measured) if is_full else [])
        for table in tables(measured, Seen(self.last, self.best_of), self.screen.width - 2):
            self.screen.print(Padding(table, (0, 0, 0, 2), expand=False))
        self._words(evaluation_lines(measured) if is_full else exposure_lines(measured))
        if is_full and metrics.WEIGHT_NORM in measured:
            self._words([trajectory_line(measured)])
        if metrics.HOST_PREDICTED in measured:
            self._words(memory_lines(measured))
        samples = [(name, text) for name, text in record.texts.items() if name.startswith(metrics.sample(""))]
        self._words(f"  {name}: {text!r}" for name, text in (samples if is_full else samples[:FEW]))

    def _events(self, record: StepRecord) -> None:
        """Print what has happened, each with the clock: events of curves, and what other hooks have to say."""
        of_kind: dict[str, list[str]] = defaultdict(list)
        for curve, events in record.events.items():
            for event in events:
                of_kind[event.kind].append(f"{curve}: {event.kind} at step {event.step}: {event.reason}")
        for kind, said in of_kind.items():
            shown = said if self.level == "full" or len(said) <= FEW else said[:FEW]
            for line in shown:
                self._line(Text(f"{_clock()}  {line}", STYLES.get(kind, "yellow")))
            if len(said) > len(shown):
                more = ", ".join(line.partition(":")[0] for line in said[FEW:])
                self._line(
                    Text(f"{_clock()}  {kind} at step {record.global_step} too: {more}", STYLES.get(kind, "yellow"))
                )
        said_of: dict[str, list[str]] = defaultdict(list)
        for name, text in record.texts.items():
            if not name.startswith(metrics.sample("")):
                said_of[text].append(name)
        for text, names in said_of.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._line(Text(f"{_clock()}  {names[0]}{more}: {text}", "yellow"))

    def _progress(self, record: StepRecord) -> Text:
        measured = record.metrics
        step, n_steps = record.global_step, record.n_steps
        text = Text(f"{_clock()}  ", "dim")
        text.append(f"step {step:>{len(str(n_steps))}}/{n_steps} {step / n_steps:>4.0%}", "bold")
        columns = [f"epoch {measured[metrics.EPOCH]:.2f}"] if metrics.EPOCH in measured else []
        columns.append(self._loss(measured.get(metrics.of_task(metrics.TRAIN_LOSS, self.task))))
        if isfinite(self.best):
            columns.append(f"best {self.best:.3f} @{self.best_step}")
        columns.append(f"lr {measured[metrics.LEARNING_RATE]:.2e}")
        if self.level == "full":
            columns.append(f"grad {measured[metrics.GRAD_NORM]:.3f}")
            peaks = {"gpu": metrics.GPU_PEAK, "host": metrics.HOST_PEAK}
            columns += [f"{of} {measured[peak]:.2f} GiB" for of, peak in peaks.items() if peak in measured]
        columns += [f"{measured[metrics.TOKENS_PER_SECOND]:,.0f} tokens/s", f"left {self._left(record)}"]
        text.append("  " + "  ".join(columns), "")
        if skipped := measured.get(metrics.SKIPPED_STEPS):
            text.append(f"  skipped {skipped:.0f}", "red")
        return text

    def _loss(self, loss: float | None) -> str:
        """Return the training loss since the last report; of text also in bits per byte."""
        if loss is None:
            return f"{self.task} -"
        bits = f" {loss / log(2) / self.bytes_per_token:.3f} b/B" if self.bytes_per_token else ""
        return f"{self.task} {loss:.3f}{bits}"

    def _left(self, record: StepRecord) -> timedelta:
        pace = (time.monotonic() - self.started) / (record.global_step - self.first_step)
        return timedelta(seconds=round(pace * (record.n_steps - record.global_step)))

    def _line(self, text: Text) -> None:
        self.screen.print(text, soft_wrap=True)

    def _words(self, lines: Any) -> None:
        for line in lines:
            self._line(Text(line))


class _Bar:
    """A bar at the foot of the terminal, drawn by the loop itself: a thread of its own would take the processor."""

    def __init__(self, on: Screen) -> None:
        said = TextColumn("{task.description}", markup=False)
        self.progress = Progress(said, BarColumn(bar_width=None), console=on, auto_refresh=False, transient=True)
        self.task = self.progress.add_task("")
        self.drawn = -inf

    def show(self, record: StepRecord, left: timedelta) -> None:
        """Draw how far the run is, unless it was drawn just now."""
        if self.drawn == -inf:
            self.progress.start()
            self.progress.console.show_cursor(True)  # it would stay hidden after a kill
        if (now := time.monotonic()) - self.drawn > REDRAWN or record.is_last:
            self.drawn = now
            said = f"step {record.global_step}/{record.n_steps}  left {left}"
            self.progress.update(self.task, description=said, completed=record.global_step, total=record.n_steps)
            self.progress.refresh()

    def close(self) -> None:
        """Take the bar away."""
        self.progress.stop()


def is_terminal() -> bool:
    """Return whether a person watches: on a terminal, not under Slurm, and colours are wanted."""
    environment = os.environ
    plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb" or "SLURM_JOB_ID" in environment
    return bool(sys.stdout and sys.stdout.isatty() and not plain)


def screen(is_live: bool = False, file: StringIO | None = None) -> Screen:
    """Return what prints: with colours and as wide as the terminal, or plain lines."""
    if is_live:
        return Screen(highlight=False, markup=False, emoji=False)
    return Screen(
        file=file, force_terminal=False, color_system=None, width=WIDTH, highlight=False, markup=False, emoji=False
    )


def results_lines(measured: Mapping[str, float]) -> list[str]:
    """Return the tables of the measures that are there, and the memory, as plain lines."""
    paper = screen(file=StringIO())
    for table in tables(measured, Seen(), WIDTH - 2):
        paper.print(Padding(table, (0, 0, 0, 2), expand=False))
    assert isinstance(paper.file, StringIO)
    return [line.rstrip() for line in paper.file.getvalue().splitlines()] + memory_lines(measured)


def memory_lines(measured: Mapping[str, float]) -> list[str]:
    """Return the predicted and the measured memory, a line for each device of which both are known."""
    of_device = {
        "GPU": (metrics.GPU_PREDICTED, metrics.GPU_PEAK),
        "host": (metrics.HOST_PREDICTED, metrics.HOST_PEAK),
    }
    return [
        f"  {device} memory: {measured[predicted]:.2f} GiB predicted, {measured[peak]:.2f} GiB measured"
        for device, (predicted, peak) in of_device.items()
        if predicted in measured and peak in measured
    ]


def _bytes_per_token(text: RunText) -> float:
    """Return the mean number of UTF-8 bytes that a token of the training text stands for."""
    token_set = text.token_set
    streams = [token_set.stream("train", language).tokens for language in token_set.languages]
    n_bytes = sum(int(token_set.byte_lengths[np.asarray(tokens)].sum()) for tokens in streams)
    return n_bytes / max(1, sum(len(tokens) for tokens in streams))


def _clock() -> str:
    return datetime.now().strftime("%m-%d %H:%M:%S")
