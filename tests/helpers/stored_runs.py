"""A run that an earlier version of the program has stored, as one that was trained on a corpus of a test."""

import dataclasses
import shutil
from pathlib import Path

import torch

from genesis_ds.checkpoint.save.manifest import Manifest
from genesis_ds.optimizers.registry import WEIGHT_AVERAGE

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


def keep_average(checkpoint: Path, kind: str) -> None:
    """Let the checkpoint have an average of the weights, which is 1 everywhere."""
    (file,) = checkpoint.glob("*_optim_states.pt")
    saved = torch.load(file, weights_only=False)
    for state in saved["optimizer_state_dict"]["base_optimizer_state"]["state"].values():
        state[WEIGHT_AVERAGE] = torch.ones_like(state["exp_avg"])
    torch.save(saved, file)
    manifest = Manifest.read(checkpoint)
    optimizer = manifest.config["optimizer"] | {"weight_average": {"kind": kind}}
    dataclasses.replace(manifest, config=manifest.config | {"optimizer": optimizer}).write(checkpoint)
