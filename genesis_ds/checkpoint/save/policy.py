"""Which checkpoints stay on the disk."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genesis_ds.checkpoint.save.manifest import Manifest
from genesis_ds.config import CheckpointConfig

_NAME = re.compile(r"step-(\d{8,})(?:-([\w-]+))?(\.replaced)?")


@dataclass(frozen=True)
class KeepPolicy:
    """Which checkpoints stay; the fields are those of CheckpointConfig."""

    keep_last: int = 2
    keep_named: int = 2
    milestones: int = 0
    """Steps from one to the next; 0: none."""
    best_by: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    keep_best: int = 1

    @classmethod
    def of(cls, config: CheckpointConfig, milestones: int) -> "KeepPolicy":
        """Return the policy of a configuration whose milestones are so many steps apart."""
        return cls(
            keep_last=config.keep_last,
            keep_named=config.keep_named,
            milestones=milestones,
            best_by=config.best_by,
            best_is=config.best_is,
            keep_best=config.keep_best,
        )


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


def to_drop(checkpoints: list[Kept], newest: Kept, policy: KeepPolicy) -> list[Kept]:
    """Return the checkpoints that the policy does not keep, and those whose manifest cannot be read.

    newest: the one that was made last; steps beyond it are of a branch that a resume has abandoned.
    """
    useful = (kept for kept in checkpoints if kept.sequence is not None and not kept.is_replaced)
    reached = sorted((kept for kept in useful if kept.step <= newest.step), key=lambda kept: kept.step)
    plain = [kept for kept in reached if kept.tag is None]
    named = [kept for kept in reached if kept.tag is not None]
    stay = {newest, *plain[-policy.keep_last :], *named[-policy.keep_named :]}
    stay |= {kept for kept in plain if policy.milestones and kept.step % policy.milestones == 0}
    if policy.best_by:
        sign = 1 if policy.best_is == "lowest" else -1
        same = [kept for kept in reached if kept.best_by == policy.best_by]
        judged = [(sign * kept.value, kept.step, kept) for kept in same if kept.value is not None]
        stay |= {kept for *_, kept in sorted(judged, key=lambda found: found[:2])[: policy.keep_best]}
    return [kept for kept in checkpoints if kept not in stay and not kept.is_foreign]
