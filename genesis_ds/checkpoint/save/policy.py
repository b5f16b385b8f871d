"""Which checkpoints stay on the disk."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from genesis_ds.checkpoint.save.manifest import Manifest
from genesis_ds.config import CheckpointConfig

_NAME = re.compile(r"step-(\d{8,})(?:-([\w-]+))?(\.replaced)?")


@dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints stay."""

    config: CheckpointConfig = field(default_factory=CheckpointConfig)
    milestones: int = 0
    """Steps from one milestone to the next; 0: none."""

    @classmethod
    def of(cls, manifest: Manifest) -> "KeepPolicy":
        """Return the policy of the run that has saved a checkpoint; its milestones are in steps there."""
        saved = manifest.config["checkpoint"]
        return cls(CheckpointConfig(**saved), saved["milestones"])


@dataclass(frozen=True)
class Kept:
    """A checkpoint on the disk."""

    path: Path
    step: int
    tag: str | None
    """The name under which a hook asked for it."""
    is_replaced: bool
    """Whether another checkpoint has taken its name since."""
    sequence: int | None
    """How many checkpoints of the run were made before it; None where the manifest cannot be read."""
    best_by: str | None
    value: float | None
    """The value of the metric best_by."""
    is_foreign: bool = False
    """Whether another version of the program has written it; such a one is never removed."""

    @classmethod
    def parse(cls, path: Path, manifest: Manifest | None, is_foreign: bool = False) -> "Kept | None":
        """Return the checkpoint of a directory; None where its name is not a checkpoint's.

        manifest: None where it cannot be read.
        """
        if not (found := _NAME.fullmatch(path.name)):
            return None
        return cls(
            path,
            step=int(found[1]),
            tag=found[2],
            is_replaced=bool(found[3]),
            sequence=manifest.sequence if manifest else None,
            best_by=manifest.best_by if manifest else None,
            value=manifest.value if manifest else None,
            is_foreign=is_foreign,
        )


def newest_of(checkpoints: list[Kept]) -> Kept | None:
    """Return the checkpoint that was made last; None where the manifest of none can be read."""
    read = (kept for kept in checkpoints if kept.sequence is not None)
    return max(read, key=lambda kept: kept.sequence or 0, default=None)


def reached(checkpoints: list[Kept]) -> list[Kept]:
    """Return the checkpoints that are of the run as it is now, in the order of their steps.

    Steps beyond the one that was made last are of a branch that a resume has abandoned.
    """
    last = newest_of(checkpoints)
    useful = (kept for kept in checkpoints if kept.sequence is not None and not kept.is_replaced)
    return sorted((kept for kept in useful if last and kept.step <= last.step), key=lambda kept: kept.step)


def best(checkpoints: list[Kept], config: CheckpointConfig) -> list[Kept]:
    """Return those of `reached` that have a finite value of the metric best_by, the best first."""
    sign = 1 if config.best_is == "lowest" else -1
    same = (kept for kept in reached(checkpoints) if config.best_by and kept.best_by == config.best_by)
    judged = [(sign * kept.value, kept) for kept in same if kept.value is not None and math.isfinite(kept.value)]
    return [kept for _, kept in sorted(judged, key=lambda found: found[0])]


def to_drop(checkpoints: list[Kept], policy: KeepPolicy) -> list[Kept]:
    """Return the checkpoints that the policy does not keep, and those whose manifest cannot be read.

    The newest stays; where there is none, nothing is dropped.
    """
    newest, there, keep = newest_of(checkpoints), reached(checkpoints), policy.config
    if newest is None:
        return []
    plain = [kept for kept in there if kept.tag is None]
    named = [kept for kept in there if kept.tag is not None]
    stay = {newest, *plain[-keep.keep_last :], *named[-keep.keep_named :], *best(checkpoints, keep)[: keep.keep_best]}
    stay |= {kept for kept in plain if policy.milestones and kept.step % policy.milestones == 0}
    return [kept for kept in checkpoints if kept not in stay and not kept.is_foreign]
