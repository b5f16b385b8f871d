"""Checkpoints of a run.

    checkpoints/
      lock                     held by the process that trains the run
      latest                   the name of the newest whole checkpoint, for people and scripts
      step-00000500/           DeepSpeed's files of all ranks
        rng_0.pt               random number generators of a rank
        training_state.json    step, position in the data, hooks, and the identity of the run
        manifest.json          sizes and hashes of all these
      step-00000500-NAME/      the same, made because a hook asked for it under this name, and kept for longer
      weights/
        step-00000500.safetensors   the weights alone; they stay

A checkpoint is written under a temporary name, flushed to the disk, and renamed when every rank has finished. What has
its name is therefore whole; what has since been damaged is found by its manifest before anything of it is loaded.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from genesis_ds.checkpoint.save.directory import (
    LATEST,
    Moved,
    checkpoints_in,
    claim,
    current_location,
    leftovers,
    prune,
)
from genesis_ds.checkpoint.save.files import copied, write_hashed_text, write_safetensors, write_tensors
from genesis_ds.checkpoint.save.manifest import STATE_FILE, Manifest
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.checkpoint.save.rng import rng_state
from genesis_ds.disk import FileRecord, flush, hash_file, replacing, tidy_away, warn, write_text
from genesis_ds.engine.distributed import from_main, gather, raise_on_all_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError, of_path
from genesis_ds.versions import versions


class Saveable(Protocol):
    """An engine that can be saved."""

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 to 3."""

    def state(self, directory: Path) -> Mapping[str, Any]:
        """Return file name -> state dict of this rank. Every rank calls it."""

    def shapes(self) -> Mapping[str, Tensor]:
        """Return what `weights` will yield, as tensors without data."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and whole weight, each for as long as it has its turn. Every rank goes through all of them."""


@dataclass(frozen=True)
class Snapshot:
    """Everything in a checkpoint besides the engine."""

    config: dict[str, Any]
    """The resolved run, as plain data."""
    state: dict[str, Any]
    """The training state, JSON-able, with global_step and consumed_samples."""
    hooks: dict[str, Any] = field(default_factory=dict)
    """Name of a hook -> its version and state."""
    save_as: str | None = None
    """The name under which a hook asked for the checkpoint; None where it is a regular one."""
    value: float | None = None
    """The last value of the metric checkpoint.best_by; None before it was measured."""
    masters: str | None = None
    """The dtype of the master weights."""

    @property
    def name(self) -> str:
        """Name of the checkpoint's directory."""
        return _step(self.state["global_step"]) + (f"-{self.save_as}" if self.save_as else "")


class SaveFailed(UserError):
    """A checkpoint could not be written; what was there before is untouched. Raised on every rank."""

    def __init__(self, reason: str, snapshot: Snapshot | None = None) -> None:
        """snapshot: what was not saved; None where it was weights alone."""
        super().__init__(reason)
        self.snapshot = snapshot


@dataclass(frozen=True)
class _Writing:
    """A checkpoint that is being written."""

    snapshot: Snapshot
    temporary: Path
    write: Callable[[], dict[str, FileRecord]]
    """Writes this rank's files, or waits until they are written."""
    commit: Callable[[dict[str, FileRecord]], None]
    is_written: Callable[[], bool] = lambda: False


class CheckpointManager:
    """Saves the checkpoints of one run, and drops those that its policy does not keep."""

    def __init__(
        self,
        directory: Path,
        policy: KeepPolicy,
        ranks: Ranks,
        *,
        identity: dict[str, Any],
        background: bool = False,
    ) -> None:
        """identity: dotted key -> value of everything a run must agree with to go on from a checkpoint.

        background: go on training while a checkpoint is written.
        """
        self.directory, self.policy, self.ranks = directory, policy, ranks
        self.identity, self.background = identity, background
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: _Writing | None = None

    def save(self, engine: Saveable, snapshot: Snapshot) -> None:
        """Write a checkpoint and drop old ones. Every rank calls it.

        With background it returns when the state is copied to the host; `poll` completes it. Raises SaveFailed, or
        Moved where the run's directory was moved meanwhile, once the checkpoint is whole there, or was removed.
        """
        self.finish()
        before = self.directory
        temporary = self._begin(snapshot)
        states = {**engine.state(temporary), f"rng_{self.ranks.rank}.pt": rng_state()}
        text = json.dumps({"state": snapshot.state, "hooks": snapshot.hooks, "identity": self.identity}, indent=1)
        zero_stage = engine.zero_stage

        def write() -> dict[str, FileRecord]:
            return {name: write_tensors(temporary / name, state) for name, state in states.items()}

        def commit(records: dict[str, FileRecord]) -> None:
            self._commit(snapshot, records, text=text, zero_stage=zero_stage, temporary=temporary)

        writing = _Writing(snapshot, temporary, write, commit)
        if self.directory != before:
            self._complete(writing)
            raise Moved(
                f"{before}: was moved to {self.directory} while the run trained, which ends it; {snapshot.name} is "
                "saved there: train on with the --output_dir and --name of that place"
            )
        if self.background:
            states = copied(states)
            written = self._writer.submit(write)
            self._writing = replace(writing, write=written.result, is_written=written.done)
        else:
            self._complete(writing)

    def poll(self) -> None:
        """Complete the checkpoint in the background if it is written. Every rank calls it, after every step.

        Raises SaveFailed.
        """
        if self._writing and all(gather(self._writing.is_written())):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint in the background and complete it. Every rank calls it. Raises SaveFailed."""
        if writing := self._writing:
            self._writing = None
            self._complete(writing)

    def save_weights(self, engine: Saveable, global_step: int) -> None:
        """Write the weights alone. Every rank calls it; the main one has one of them on the host at a time.

        Raises SaveFailed, or Moved where the run's directory was removed.
        """
        weights = engine.weights()

        def write() -> None:
            try:
                if self.ranks.is_main:
                    directory = current_location(self.directory)
                    final = directory / "weights" / f"{_step(global_step)}.safetensors"
                    write_weights(engine.shapes(), weights, final, within=directory)
            finally:
                for _ in weights:  # the other ranks gather them too
                    pass

        self._run_on_all_ranks(write)

    def _begin(self, snapshot: Snapshot) -> Path:
        """Return a new directory to write a checkpoint in, once the leftovers of earlier saves are removed."""

        def make() -> Path:
            claim(self.directory)
            self.directory = current_location(self.directory)
            for left in leftovers(self.directory):
                tidy_away(left)
            prune(self.directory, self.policy)
            temporary = self.directory / f"{snapshot.name}.{secrets.token_hex(4)}.tmp"
            temporary.mkdir()
            return temporary

        made = self._run_on_all_ranks(lambda: make() if self.ranks.is_main else None, snapshot)
        temporary: Path = from_main(made)
        self.directory = temporary.parent
        return temporary

    def _complete(self, writing: _Writing) -> None:
        """Write on all ranks, then commit on the main one. Raises SaveFailed, with nothing left behind."""
        snapshot = writing.snapshot
        try:
            of_rank = gather(self._run_on_all_ranks(writing.write, snapshot))
            records = {name: record for of_one in of_rank for name, record in of_one.items()}
            self._run_on_all_ranks(lambda: writing.commit(records) if self.ranks.is_main else None, snapshot)
        except SaveFailed:
            if self.ranks.is_main:
                shutil.rmtree(writing.temporary, ignore_errors=True)
            raise

    def _run_on_all_ranks(self, function: Callable[[], Any], snapshot: Snapshot | None = None) -> Any:
        """Return what the function gives. Raises SaveFailed of the snapshot on every rank if it fails on one."""
        try:
            return raise_on_all_ranks(function)
        except Moved:
            raise
        except (UserError, OSError) as error:
            raise SaveFailed(of_path(error) if isinstance(error, OSError) else str(error), snapshot) from error

    def _commit(
        self, snapshot: Snapshot, records: dict[str, FileRecord], *, text: str, zero_stage: int, temporary: Path
    ) -> None:
        """Write the manifest, give the checkpoint its name and drop old ones. The main rank calls it."""
        records[STATE_FILE] = write_hashed_text(temporary / STATE_FILE, text)
        others = (path for path in temporary.rglob("*") if path.is_file())  # an optimizer's on NVMe
        names = {str(path.relative_to(temporary)): path for path in others}
        records |= {name: hash_file(path) for name, path in names.items() if name not in records}
        before = checkpoints_in(self.directory)
        Manifest(
            sequence=1 + max((kept.sequence for kept in before if kept.sequence is not None), default=-1),
            saved=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            global_step=snapshot.state["global_step"],
            consumed_samples=snapshot.state.get("consumed_samples", 0),
            n_ranks=self.ranks.world_size,
            zero_stage=zero_stage,
            best_by=self.policy.config.best_by,
            value=snapshot.value,
            config=snapshot.config,
            versions=versions(),
            files=records,
            masters=snapshot.masters,
        ).write(temporary)
        flush(temporary)
        final = self.directory / snapshot.name
        if final.exists():
            replaced = final.with_name(f"{final.name}.replaced")
            tidy_away(replaced)
            os.rename(final, replaced)
        os.rename(temporary, final)
        flush(self.directory)
        try:
            write_text(self.directory / LATEST, f"{final.name}\n")
            prune(self.directory, self.policy)
        except (UserError, OSError) as error:  # it is saved all the same
            warn(str(error))


def write_weights(
    shapes: Mapping[str, Tensor], weights: Iterable[tuple[str, Tensor]], final: Path, within: Path | None = None
) -> None:
    """Write whole weights as safetensors, one at a time. shapes: as in write_safetensors; within: in `replacing`."""
    with replacing(final, within) as temporary:
        write_safetensors(temporary, shapes, weights, {"global_step": str(int(final.stem.split("-")[1]))})


def _step(global_step: int) -> str:
    return f"step-{global_step:08d}"
