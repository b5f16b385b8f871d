"""Directories of runs as training leaves them, written without any training."""

import json
from pathlib import Path
from typing import Any

from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.json_lines import JsonLines
from genesis_ds.user_files import dump_yaml

START = {
    "started": "2026-11-01T08:00:00+00:00",
    "command": "genesis-ds train --name tried",
    "git_commit": "9d585936c357521d788904612848e44ad88cca4a",
    "fingerprints": {"token_set": "538bfd"},
    "versions": {"genesis_ds": "0.1.0", "torch": "2.13.0"},
    "machine": {"host": "vm", "platform": "Linux", "cpus": 2, "gpus": []},
}


def write_run(path: Path, records: list[StepRecord], log: str | None = "", **config: Any) -> Path:
    """Write the directory of a run with what its records say; return it. log: of rank 0; None: it has none."""
    path.mkdir(parents=True)
    split = {"grokking": {"split": "val_chapter"}}
    whole = {"name": path.name, "max_steps": 1000, "model": {"n_layers": 4, "dim": 64}} | split | config
    (path / "config.yaml").write_text(dump_yaml(whole), encoding="utf-8")
    (path / "ds_config.json").write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8")
    (path / "provenance.jsonl").write_text(json.dumps(START) + "\n", encoding="utf-8")
    if log is not None:
        (path / "log.txt").write_text(log, encoding="utf-8")
    hook = JsonLines(path / "metrics.jsonl", 0)
    for record in records:
        hook.on_step(record)
    hook.close()
    return path
