"""The checkpoint that a run goes on from: which one, whether it is of the same run, and what is taken from it."""

from pathlib import Path
from typing import Any, Protocol

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.save.directory import GoodCheckpoint, checkpoints_directory, newest_good
from genesis_ds.checkpoint.save.manifest import MANIFEST, REMEDY, STATE_FILE, Manifest, StateFile, inspect
from genesis_ds.checkpoint.save.rng import set_rng_state
from genesis_ds.config.changes import flat
from genesis_ds.engine.distributed import raise_on_all_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.engine.saved_state import SavedState
from genesis_ds.errors import UserError, named_by_user
from genesis_ds.optimizers.registry import ADAMW
from genesis_ds.stored import read_stored

BEFORE_THE_KEY = {"optimizer.name": ADAMW, "data.chapter_order": "canonical", "verse_tasks.tokens_ahead": 4}
"""What older checkpoints, which do not say it, were of."""
SOURCES = {
    "distill.teacher (fingerprint)": "distill.teacher",
    "data (fingerprint)": "data.corpus",
    "tokenizer (fingerprint)": "tokenizer.path",
}
"""Hashes of what a run is of -> the field that says where that lies."""


class Loadable(Protocol):
    """What takes up a checkpoint: an engine."""

    def load(self, saved: SavedState) -> None:
        """Take up weights, optimizer, schedule and counters. Every rank calls it."""


def find_checkpoint(directory: Path, resume: str) -> GoodCheckpoint | None:
    """Return the checkpoint that `resume` (auto, never, or a path) means, every byte of it checked; None to start anew.

    directory: of the run's checkpoints. For a run's directory as a path, its newest good one. Raises UserError for a
    path that is no checkpoint or a damaged one, and where there are checkpoints but no good one.
    """
    if resume == "never":
        return None
    with named_by_user(directory if resume == "auto" else resume, "resume"):
        if resume == "auto":
            return newest_good(directory)
        path = Path(resume)
        if checkpoints := checkpoints_directory(path):
            return newest_good(checkpoints)
        if not (path / MANIFEST).exists():
            raise UserError(f"{path}: no checkpoint is there (no {MANIFEST}); --resume takes auto, never or a path")
        found = inspect(path)
        if wrong := found.problems:
            raise UserError(f"{wrong[0]}; name another with --resume (genesis-ds checkpoint verify {path.parent})")
        return GoodCheckpoint(path, found.notices)


def read_training_state(checkpoint: Path, identity: dict[str, Any]) -> StateFile:
    """Return the training state and the hooks' states.

    identity: dotted key -> value of everything that must be as it was. Raises UserError when something is not: the
    checkpoint is of another model, data or batch.
    """
    saved = read_stored(checkpoint / STATE_FILE, StateFile, REMEDY)
    for key, value in identity.items():
        before = saved.identity.get(key, BEFORE_THE_KEY.get(key))
        if before != value:
            was, now = ("off" if setting is None else setting for setting in (before, value))
            raise UserError(
                f"{checkpoint}: saved with {key} {was}, this run has {now}; {_remedy(checkpoint, key, before)} to "
                "continue, or --resume never with another --name to start anew"
            )
    return saved


def _remedy(checkpoint: Path, key: str, before: Any) -> str:
    """Say how a run gets what it was saved with."""
    if before is None:
        return "leave it out"
    source = SOURCES.get(key)
    there = flat(Manifest.read(checkpoint).config).get(source) if source else None
    if not there:
        return "give the saved value"
    return f"give what {source} had then ({', '.join(there) if isinstance(there, list) else there})"


def load_checkpoint(engine: Loadable, checkpoint: Path, ranks: Ranks, trust: bool = False) -> None:
    """Take up weights, optimizer, schedule and random numbers of a checkpoint in a fresh engine, on every rank.

    The checkpoint may be of another number of ranks, ZeRO stage, offload setting or optimizer implementation. trust:
    read classes from its files that are not expected there, and run their code.
    """
    engine.load(raise_on_all_ranks(lambda: ZeroFiles(checkpoint, trust)))
    if (own := checkpoint / f"rng_{ranks.rank}.pt").exists():
        set_rng_state(safe_load(own, trust=trust))
