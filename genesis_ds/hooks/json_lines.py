"""The run as a file of JSON records."""

import json
import os
from pathlib import Path

from genesis_ds.hooks.base import Hook, StepRecord


class JsonLines(Hook):
    """One record per step that measured something: global_step, the metrics, the texts.

    On resume, records of steps beyond the checkpoint are dropped, so that no curve has a point twice.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["global_step"] <= first_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def on_step(self, record: StepRecord) -> None:
        if record.metrics or record.texts:
            row = {"global_step": record.global_step, **record.metrics, **record.texts}
            self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.file.flush()

    def close(self) -> None:
        self.file.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of the file; a last one that a crash cut short is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
