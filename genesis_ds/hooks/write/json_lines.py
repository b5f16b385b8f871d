"""The run as a file of JSON records."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from genesis_ds import segments
from genesis_ds.disk import NotWritten, warn
from genesis_ds.errors import named_by_user, of_path, require_file
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext

EXACT = "train/loss"
"""Beginning of the names of measures that are written as they are, as runs are compared by them bit for bit."""
DIGITS = 5
"""Significant digits of all others."""


class JsonLines(Hook):
    """Writes one record per step that measured something: global_step, the metrics, the texts, the events.

    Every line is valid JSON, with null for what is not finite. Each 50,000 steps are closed as a segment (segments.py).
    On resume, records of steps beyond the checkpoint are dropped, so that no curve has a point twice; lines that are no
    records are set aside in NAME.damaged. What a full disk does not take is kept and written with a later record.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        require_file(path, "output_dir")
        self.path = path
        with named_by_user(path, "output_dir"):
            _set_aside(path)
            segments.cut(path, first_step)
            self._open()
        closed = max(segments.closed_segments(path), default=0)
        self.end = max(closed + segments.STEPS, -(-first_step // segments.STEPS) * segments.STEPS)
        """The last step of the open segment."""
        self.unwritten = b""
        self.is_open_for_long = False

    @classmethod
    def build(cls, context: HookContext) -> "JsonLines":
        """Return the hook of a run."""
        return cls(context.metrics_file, context.first_step)

    def on_step(self, record: StepRecord) -> None:
        if record.metrics or record.texts:
            row: dict[str, Any] = {"global_step": record.global_step, **record.metrics, **record.texts}
            if record.events:
                row["events"] = {curve: [vars(event) for event in events] for curve, events in record.events.items()}
            self._write(_line(row))
        if record.global_step >= self.end and not self.unwritten:
            self._close_segment(record.global_step)

    def close(self) -> None:
        self._write(b"")
        self.file.close()

    def _open(self) -> None:
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def _close_segment(self, global_step: int) -> None:
        try:
            segments.close_segment(self.path, self.end, _line)
        except (OSError, NotWritten) as error:
            if not self.is_open_for_long:
                warn(f"{error}; the segment stays open until there is room")
            self.is_open_for_long = True
            return
        self.file.close()
        self._open()
        self.end = (global_step // segments.STEPS + 1) * segments.STEPS
        self.is_open_for_long = False

    def _write(self, line: bytes) -> None:
        waited, self.unwritten = bool(self.unwritten), self.unwritten + line
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
        except OSError as error:
            if not waited:
                warn(f"{of_path(error, self.file.name)}; its records wait")


def _line(row: dict[str, Any]) -> bytes:
    written = {name: _written(value, name.startswith(EXACT)) for name, value in row.items()}
    return (json.dumps(written, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _written(value: Any, exact: bool) -> Any:
    """Return a value as it is written: what is not finite is None, a measure has DIGITS."""
    if isinstance(value, dict):
        return {name: _written(inner, exact) for name, inner in value.items()}
    if isinstance(value, list):
        return [_written(inner, exact) for inner in value]
    if isinstance(value, float):
        return (float(value) if exact else float(f"{value:.{DIGITS}g}")) if isfinite(value) else None
    return value


def _set_aside(path: Path) -> None:
    """Move the lines that are no records into NAME.damaged."""
    damaged = [line for line, record in segments.split(path.read_bytes() if path.exists() else b"") if record is None]
    if damaged:
        aside = path.with_name(f"{path.name}.damaged")
        with open(aside, "ab") as file:
            file.writelines(line + b"\n" for line in damaged)
        warn(f"{path}: {len(damaged)} lines are no records; they were moved to {aside}")
