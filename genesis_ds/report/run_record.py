"""What the directory of a run holds, read once for everything that people look at: report, table of runs, comparison.

A directory may be young (no metrics yet), may have lost its end in a crash, and may be read while its run trains.
"""

import re
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.config.changes import flat, keys_of_any
from genesis_ds.disk import is_locked, warn
from genesis_ds.errors import UserError, shown
from genesis_ds.segments import read_records
from genesis_ds.stored import parse_stored
from genesis_ds.user_files import load_json, load_yaml

State = Literal["running", "done", "stopped", "crashed"]
ENDS: dict[int, State] = {0: "done", 75: "stopped"}
"""Exit code of the last start -> how the run is; any other is of a crash."""
MISSING = "-"
"""What stands for a field that a run does not have."""


class Series(NamedTuple):
    """A measure over the run, by rising steps; nan is what was not finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


class Said(NamedTuple):
    """A text of the run: a sample, or what a hook has said."""

    step: int
    name: str
    text: str


class Happened(NamedTuple):
    """An event that a detector found in a curve."""

    step: int
    curve: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Start:
    """One start of the run, as it has written it down."""

    started: str
    """Date and time, ISO 8601, in UTC."""
    command: str
    git_commit: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its directory tells it."""

    path: Path
    name: str
    """Of the run, or of its directory where that has none."""
    config: dict[str, Any]
    """config.yaml: the configuration as resolved."""
    ds_config: dict[str, Any]
    starts: tuple[Start, ...]
    is_complete: bool
    """Whether its last step is reported."""
    state: State
    measures: dict[str, Series]
    texts: tuple[Said, ...]
    """All but samples."""
    samples: tuple[Said, ...]
    events: tuple[Happened, ...]
    clock: dict[int, str]
    """Step -> month, day and time when the console told of it, in the machine's time."""
    last_words: str
    """The last line of its log, before its exit code; of a crash, what it died of or was at."""

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run; 0 where its configuration does not say it."""
        found = self.config.get("max_steps")
        return found if isinstance(found, int) else 0

    @property
    def last_step(self) -> int:
        """The last step of which anything was reported."""
        return max((int(series.steps[-1]) for series in self.measures.values()), default=0)

    def last(self, name: str) -> float | None:
        """Return the last value of a measure; None where it was never measured."""
        return float(self.measures[name].values[-1]) if name in self.measures else None

    @property
    def watched_split(self) -> str:
        """The validation split that is watched for grokking."""
        return str(self.config.get("grokking", {}).get("split", "val_chapter"))

    def validation(self) -> Series | None:
        """Return the mean bits per byte of the split that is watched for grokking, or the loss of arithmetic.

        Where the records are decimated, languages have points of their own; each counts with its last value.
        """
        names = metrics.validation_losses(self.measures, self.watched_split)
        return mean([self.measures[name] for name in names]) if names else None

    def best(self) -> tuple[int, float] | None:
        """Return the step and the value of the lowest validation; None where there is none."""
        found = self.validation()
        if found is None or not np.isfinite(found.values).any():
            return None
        at = int(np.nanargmin(found.values))
        return int(found.steps[at]), float(found.values[at])


def read_run(path: Path, decimated: bool = True) -> RunRecord:
    """Read the directory of a run. Raises UserError where it is none.

    decimated: of closed segments of metrics.jsonl, the lowest and the highest of each 5,000 steps (segments.py).
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: not the directory of a run, it has no {CONFIG}; give one such as runs/quickstart")
    ds_config = path / "ds_config.json"
    measures, texts, events = _records(path / METRICS, decimated)
    last_step = max((int(series.steps[-1]) for series in measures.values()), default=0)
    config = load_yaml(path / CONFIG).values
    is_complete = last_step == config.get("max_steps")
    return RunRecord(
        path=path,
        name=str(config.get("name") or path.resolve().name),
        config=config,
        ds_config=load_json(ds_config) if ds_config.is_file() else {},
        starts=tuple(_starts(path / "provenance.jsonl")),
        is_complete=is_complete,
        state=state_of(path, is_complete),
        measures=measures,
        texts=tuple(text for text in texts if not text.name.startswith(SAMPLE)),
        samples=tuple(text for text in texts if text.name.startswith(SAMPLE)),
        events=tuple(events),
        clock=_clock(path / LOG),
        last_words=_last_words(path / LOG),
    )


CONFIG, METRICS, LOG, SAMPLE = "config.yaml", "metrics.jsonl", "log.txt", metrics.sample("")


def mean(of: list[Series]) -> Series:
    """Return the mean of measures at every step of any, from the first on at which all are known."""
    steps = np.unique(np.concatenate([series.steps for series in of]))
    steps = steps[steps >= max(series.steps[0] for series in of)]
    at_steps = [series.values[np.searchsorted(series.steps, steps, side="right") - 1] for series in of]
    return Series(steps, np.mean(at_steps, axis=0))


def differences(runs: list[RunRecord]) -> dict[str, list[str]]:
    """Return the fields in which the configurations of runs differ: dotted key -> the value in each, as text."""
    whole = [flat(run.config) | flat(run.ds_config, "ds_config.") for run in runs]
    found = {key: [str(fields.get(key, MISSING)) for fields in whole] for key in keys_of_any(*whole)}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _records(path: Path, decimated: bool) -> tuple[dict[str, Series], list[Said], list[Happened]]:
    columns: dict[str, tuple[array[int], array[float]]] = defaultdict(lambda: (array("q"), array("d")))
    texts: list[Said] = []
    events: list[Happened] = []
    for record in read_records(path, decimated):
        step = record["global_step"]
        for name, value in record.items():
            if isinstance(value, int | float):
                steps, values = columns[name]
                steps.append(step)
                values.append(value)
            elif isinstance(value, str):
                texts.append(Said(step, name, value))
        for curve, of_curve in record.get("events", {}).items():
            events += [Happened(event["step"], curve, event["kind"], event["reason"]) for event in of_curve]
    columns.pop("global_step", None)
    return {name: Series(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}, texts, events


def _starts(path: Path) -> list[Start]:
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            found.append(parse_stored(line, Start, f"{path}, line {number}", "it is left out"))
        except UserError as error:
            warn(shown(error))
    return found


def state_of(path: Path, is_complete: bool) -> State:
    """Return how a run is: it trains while it holds its lock; its log ends with its exit code unless it was killed.

    is_complete: whether its last step is reported, which tells of runs of before the log.
    """
    if is_locked(path / "checkpoints" / "lock"):
        return "running"
    if not (path / LOG).is_file():
        return "done" if is_complete else "stopped"
    end = re.search(rb"(?:^|\n)exit code (\d+)\n*$", _end_of(path / LOG))
    return ENDS.get(int(end[1]), "crashed") if end else "crashed"


def _last_words(path: Path) -> str:
    lines = _end_of(path).decode("utf-8", "replace").splitlines()
    return next((shown(line.strip()) for line in reversed(lines) if line.strip() and "exit code" not in line), "")


def _end_of(path: Path, size: int = 4096) -> bytes:
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def _clock(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    return {int(step): time.decode() for time, step in _REPORT.findall(path.read_bytes())}


_REPORT = re.compile(rb"^(\d\d-\d\d \d\d:\d\d):\d\d  step +(\d+)/", re.MULTILINE)
