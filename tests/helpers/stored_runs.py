"""A run that an earlier version of the program has stored, as one that was trained on a corpus of a test."""

import dataclasses
import shutil
from pathlib import Path

from genesis_ds.checkpoint.save.manifest import Manifest

RUN = Path(__file__).parents[1] / "data/before_rebuild/text"
"""Of bytes in windows of 64, trained for 6 steps on the synthetic corpus."""


def run_on(corpus: Path, directory: Path) -> Path:
    """Copy the run to a directory, with a corpus in its manifest; return the directory."""
    shutil.copytree(RUN, directory)
    (checkpoint,) = (directory / "checkpoints").glob("step-*")
    manifest = Manifest.read(checkpoint)
    data = manifest.config["data"] | {"corpus": str(corpus)}
    dataclasses.replace(manifest, config=manifest.config | {"data": data}).write(checkpoint)
    return directory
