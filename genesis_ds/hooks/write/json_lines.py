"""The run as a file of JSON records."""

import json
from pathlib import Path
from typing import Any

from genesis_ds.disk import replacing, warn
from genesis_ds.errors import named_by_user, of_path, require_file
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.stored import record_lines


class JsonLines(Hook):
    """Writes one record per step that measured something: global_step, the metrics, the texts, the events.

    On resume, records of steps beyond the checkpoint are dropped, so that no curve has a point twice; lines that are no
    records are set aside in NAME.damaged. What a full disk does not take is kept and written with a later record.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        require_file(path, "output_dir")
        with named_by_user(path, "output_dir"):
            damaged = [line for line, record in record_lines(path) if record is None]
            if damaged:
                aside = path.with_name(f"{path.name}.damaged")
                with open(aside, "ab") as file:
                    file.writelines(line + b"\n" for line in damaged)
                warn(f"{path}: {len(damaged)} lines are no records; they were moved to {aside}")
            with replacing(path) as temporary:
                kept = (line for line, record in record_lines(path) if record and record["global_step"] <= first_step)
                temporary.write_bytes(b"".join(line + b"\n" for line in kept))
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        self.unwritten = b""

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
                warn(f"{of_path(error, self.file.name)}; its records wait")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
