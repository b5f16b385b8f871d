"""The run as a file of JSON records."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from genesis_ds.errors import UserError
from genesis_ds.hooks.base import Hook, StepRecord


class JsonLines(Hook):
    """One record per step that measured something: global_step, the metrics, the texts, the events.

    On resume, records of steps beyond the checkpoint are dropped, so that no curve has a point twice. What a full disk
    does not take is kept and written with a later record.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        kept = [row for row in read_records(path) if row["global_step"] <= first_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(temporary, path)
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        self.unwritten = b""

    def on_step(self, record: StepRecord) -> None:
        if record.metrics or record.texts:
            row: dict[str, Any] = {"global_step": record.global_step, **record.metrics, **record.texts}
            if record.events:
                row["events"] = {curve: [vars(event) for event in events] for curve, events in record.events.items()}
            self._write(_line(row))

    def close(self) -> None:
        self._write("")
        self.file.close()

    def _write(self, text: str) -> None:
        waited, self.unwritten = bool(self.unwritten), self.unwritten + text.encode()
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
        except OSError as error:
            if not waited:
                print(f"warning: {self.file.name}: {error.strerror}; its records wait", file=sys.stderr, flush=True)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; none where there is no file. Raises UserError for one that is damaged."""
    try:
        return [json.loads(line) for line in _lines(path)]
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); remove the bad line, or choose another --name") from error


def _lines(path: Path) -> list[str]:
    """The whole lines of the file; a last one that a crash cut short is left out."""
    if not path.exists():
        return []
    # Not splitlines: a sample may hold U+0085 or U+2028, which it takes for line ends as well.
    return path.read_text(encoding="utf-8").split("\n")[:-1]
