"""What DeepSpeed would write on one rank, taken from it before it touches the disk.

DeepSpeed writes between collectives: a rank whose disk is full would leave the others waiting. Here its state dicts are
collected; the manager writes them when no rank waits for another.
"""

from pathlib import Path
from typing import Any, NoReturn

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine


class RankFiles(CheckpointEngine):
    """Stands in the place of DeepSpeed's TorchCheckpointEngine."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, Any] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing to prepare."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """The manager has made the directory."""

    def save(self, state_dict: Any, path: str) -> None:
        self.states[Path(path).name] = state_dict

    def load(self, path: str, map_location: Any = None) -> NoReturn:
        raise NotImplementedError("checkpoints are read by restore, which does not unpickle classes")

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


def collect(engine: Any, directory: Path) -> dict[str, Any]:
    """File name -> the state dict that belongs in it, on this rank. They refer to the engine's tensors.

    Every rank calls it. An optimizer on NVMe has its files copied into the directory, which exists.
    """
    files = RankFiles()
    engine.checkpoint_engine = files
    engine._copy_recovery_script = lambda save_path: None  # would write, on rank 0 alone; see `consolidate`
    engine.save_checkpoint(str(directory.parent), tag=directory.name, save_latest=False)
    return files.states


def copied(value: Any) -> Any:
    """The same with tensors of its own on the host, which training does not change.

    A view is copied alone, without the rest of its storage.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, copied(item)) for key, item in value.items())
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return value
