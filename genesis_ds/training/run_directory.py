"""The directory of a run: what it was, what it measured, and its checkpoints.

runs/NAME/
  config.yaml       the resolved configuration
  ds_config.json    the resolved DeepSpeed configuration
  provenance.jsonl  one record per start: versions, git commit, fingerprints, machine, command
  log.txt           what rank 0 has printed, and logs/ what the others have
  metrics.jsonl     one record per reported step
  events.out.*      the same for TensorBoard, which so shows the run by its name
  checkpoints/
"""

import json
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from genesis_ds import metrics
from genesis_ds.config import RunConfig
from genesis_ds.disk import write_text
from genesis_ds.errors import named_by_user
from genesis_ds.hooks.write.console import results_lines
from genesis_ds.segments import read_records
from genesis_ds.user_files import dump_yaml
from genesis_ds.versions import git_commit, versions


class RunDirectory:
    """The directory of a run, with its paths."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        earlier = path / "tensorboard"  # of a run that was begun before its files lay beside the others
        self.tensorboard = earlier if earlier.is_dir() else path
        self.checkpoints = path / "checkpoints"

    def log(self, rank: int) -> Path:
        """Return the file with what a rank prints."""
        return self.path / "log.txt" if rank == 0 else self.path / "logs" / f"rank-{rank:05}.txt"

    @classmethod
    def of(cls, config: RunConfig) -> "RunDirectory":
        """Return the directory of the run that a configuration describes."""
        return cls(Path(config.output_dir) / config.name)

    def results(self) -> list[str]:
        """Return the run's memory, last evaluation and last samples, a line each; none before the first report."""
        latest: dict[str, Any] = {}
        for record in read_records(self.metrics):
            latest |= record
        samples = [f"  {name}: {value!r}" for name, value in latest.items() if name.startswith(metrics.sample(""))]
        return [*results_lines(latest), *samples]

    def location_lines(self) -> list[str]:
        """Return where everything of the run is, a line each."""
        return [
            f"run         {self.path}",
            f"metrics     {self.metrics}",
            f"tensorboard tensorboard --logdir {self.path.parent}",
            f"checkpoints {self.checkpoints}",
        ]

    def write(self, config: dict[str, Any], ds_config: dict[str, Any], fingerprints: dict[str, str]) -> None:
        """Create the directory and describe the run in it. Raises UserError where that is not possible."""
        with named_by_user(self.path, "output_dir", "choose another --output_dir"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "config.yaml", dump_yaml(config))
            write_text(self.path / "ds_config.json", json.dumps(ds_config, indent=2) + "\n")
            with open(self.path / "provenance.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(_provenance(fingerprints)) + "\n")


def _provenance(fingerprints: dict[str, str]) -> dict[str, Any]:
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git_commit": git_commit(),
        "fingerprints": fingerprints,
        "versions": versions(),
        "machine": {
            "host": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }
