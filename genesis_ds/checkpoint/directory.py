"""The directory that holds the checkpoints of a run: which are there, which are good, which may go."""

import fcntl
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from genesis_ds.checkpoint.manifest import Manifest, problems
from genesis_ds.checkpoint.retention import Kept, to_drop
from genesis_ds.config import CheckpointConfig
from genesis_ds.errors import UserError

LATEST = "latest"
LOCK = "lock"
_held: dict[Path, IO[str]] = {}
"""The locks that this process has."""


@dataclass(frozen=True)
class Found:
    """A good checkpoint."""

    path: Path
    notices: list[str] = field(default_factory=list)
    """What is wrong with newer ones."""


def checkpoints_in(directory: Path) -> list[Kept]:
    """The checkpoints in a directory, newest first; those whose manifest cannot be read come before all."""
    found = []
    for path in directory.glob("step-*"):
        try:
            kept = Kept.parse(path, Manifest.read(path))
        except UserError:
            kept = Kept.parse(path, None)
        if kept and path.is_dir():
            found.append(kept)
    return sorted(found, key=lambda kept: (kept.sequence is None, kept.sequence, kept.step), reverse=True)


def claim(directory: Path) -> None:
    """Hold the checkpoints for this process until it ends. Raises UserError while another has them."""
    if directory in _held:
        return
    directory.mkdir(parents=True, exist_ok=True)
    lock = open(directory / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (the kernel closes it with the process)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise UserError(
            f"{directory}: {holder} is training this run; wait for its end or choose another --name"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    _held[directory] = lock


def newest_good(directory: Path) -> Found | None:
    """The newest checkpoint in which nothing is wrong; None where there is none at all.

    Raises UserError where there were some, and none is good.
    """
    notices: list[str] = []
    for kept in checkpoints_in(directory):
        wrong = problems(kept.path)
        if not wrong:
            return Found(kept.path, notices)
        notices += wrong
    if not notices and (directory / LATEST).exists():
        notices = [f"{directory / LATEST}: names a checkpoint, and there is none"]
    if notices:
        raise UserError(
            f"no good checkpoint in {directory}: {notices[0]}; bring one back, or start anew with --resume never and "
            "another --name"
        )
    return None


def prune(directory: Path, policy: CheckpointConfig) -> list[Path]:
    """Remove the checkpoints that the policy does not keep; their paths. The newest stays."""
    present = checkpoints_in(directory)
    newest = next((kept for kept in present if kept.sequence is not None), None)
    dropped = to_drop(present, newest, policy) if newest else []
    for kept in dropped:
        _remove(kept.path)
    return [kept.path for kept in dropped]


def drop_newer(directory: Path, than: Path) -> None:
    """Remove all that were made after one of them, which is then the newest; all, if it is not among them."""
    for kept in checkpoints_in(directory):
        if kept.path == than:
            break
        _remove(kept.path)


def _remove(checkpoint: Path) -> None:
    going = checkpoint.with_name(f"{checkpoint.name}.tmp")  # a crash in the middle must not leave half of it
    os.rename(checkpoint, going)
    shutil.rmtree(going)
