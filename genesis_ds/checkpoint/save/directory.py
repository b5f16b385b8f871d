"""The directory that holds the checkpoints of a run: which are there, which are good, which may go."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from genesis_ds.checkpoint.save.manifest import Manifest, inspect
from genesis_ds.checkpoint.save.policy import KeepPolicy, Kept, to_drop
from genesis_ds.disk import lock, tidy_away
from genesis_ds.errors import UserError, named_by_user
from genesis_ds.stored import OtherVersion

LATEST = "latest"
LOCK = "lock"
_held: dict[Path, IO[str]] = {}
"""Directory -> the open lock file that this process holds on it."""


class Moved(UserError):
    """The run's directory is no longer where it was."""


@dataclass(frozen=True)
class GoodCheckpoint:
    """A checkpoint every byte of which was checked, and is good."""

    path: Path
    notices: list[str] = field(default_factory=list)
    """What the user should know: newer checkpoints that are damaged, and files in this one that are not its own."""


def checkpoints_in(directory: Path) -> list[Kept]:
    """Return the checkpoints in a directory, newest first.

    The manifest says which is newer. Those whose manifest cannot be read come first where their step is beyond the
    newest one's, else last.
    """
    found = []
    for path in directory.glob("step-*"):
        try:
            kept = Kept.parse(path, Manifest.read(path))
        except UserError as error:
            kept = Kept.parse(path, None, isinstance(error, OtherVersion))
        if kept and path.is_dir():
            found.append(kept)
    found.sort(key=lambda kept: kept.step, reverse=True)
    unread = [kept for kept in found if kept.sequence is None]
    read = sorted((k for k in found if k.sequence is not None), key=lambda kept: kept.sequence or 0, reverse=True)
    newest = read[0].step if read else -1
    return [*(k for k in unread if k.step > newest), *read, *(k for k in unread if k.step <= newest)]


def checkpoints_directory(path: Path) -> Path | None:
    """Return the directory of checkpoints, given it or its run's directory; None where there is no checkpoint."""
    return next((directory for directory in (path, path / "checkpoints") if checkpoints_in(directory)), None)


def claim(directory: Path) -> None:
    """Hold the checkpoints for this process until it ends. Raises UserError while another has them."""
    if directory in _held:
        return
    with named_by_user(directory, "output_dir"):
        held = lock(directory / LOCK, wait=False)
        if held is None:
            holder = (directory / LOCK).read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise UserError(f"{directory}: {holder} is training this run; wait for its end or choose another --name")
        held.truncate(0)
        held.write(f"process {os.getpid()} on {platform.node()}")
        held.flush()
        _held[directory] = held


def current_location(directory: Path) -> Path:
    """Return where a directory that was claimed is by now. Raises Moved where it was removed."""
    held = _held[directory]
    there = os.fstat(held.fileno())
    with suppress(OSError):
        if os.path.samestat(os.stat(directory / LOCK), there):
            return directory
    now = Path(os.readlink(f"/proc/self/fd/{held.fileno()}")).parent
    with suppress(OSError):
        if os.path.samestat(os.stat(now / LOCK), there):
            _held[now] = _held.pop(directory)
            return now
    raise Moved(f"{directory}: was removed while the run trained, which ends it; nothing can be saved there")


def newest_good(directory: Path) -> GoodCheckpoint | None:
    """Return the newest checkpoint in which nothing is wrong; None where there is none at all.

    Raises UserError where there were some, and none is good.
    """
    notices: list[str] = []
    for kept in checkpoints_in(directory):
        found = inspect(kept.path)
        if not found.problems:
            passed_over = [f"{line}; an older one is taken" for line in notices]
            return GoodCheckpoint(kept.path, passed_over + found.notices)
        notices += found.problems
    if not notices and (directory / LATEST).exists():
        notices = [f"{directory / LATEST}: names a checkpoint, and there is none"]
    if notices:
        raise UserError(
            f"no good checkpoint in {directory}: {notices[0]}; bring one back, or start anew with --resume never and "
            "another --name"
        )
    return None


def leftovers(directory: Path) -> list[Path]:
    """Return what saves that did not end have left: checkpoints and files under their temporary names."""
    return [*directory.glob("step-*.tmp"), *directory.glob(".*.tmp")]


def prune(directory: Path, policy: KeepPolicy) -> list[Path]:
    """Remove the checkpoints that the policy does not keep; return their paths. The newest stays."""
    return [kept.path for kept in to_drop(checkpoints_in(directory), policy) if _remove(kept.path)]


def drop_newer(directory: Path, than: Path) -> None:
    """Remove all checkpoints made after `than`, which is then the newest; all, where it is not among them."""
    for kept in checkpoints_in(directory):
        if kept.path == than:
            break
        if not kept.is_foreign:
            _remove(kept.path)


def _remove(checkpoint: Path) -> bool:
    """Remove a checkpoint, or the link where it is one; return False, with a warning, where that is not possible."""
    going = checkpoint.with_name(f"{checkpoint.name}.tmp")  # a crash in the middle must not leave half of it
    try:
        os.rename(checkpoint, going)
    except OSError:
        going = checkpoint
    return tidy_away(going)
