"""Checkpoints of a run.

    checkpoints/
      latest                   the name of the newest whole checkpoint
      step-00000500/           DeepSpeed's files of all ranks
        training_state.json    step, position in the data, hooks, and the identity of the run

A checkpoint is written under a temporary name and renamed when every rank has finished; `latest` is replaced after
that. What `latest` names is therefore always whole.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from genesis_ds.engine.distributed import Ranks, barrier
from genesis_ds.errors import UserError

STATE_FILE = "training_state.json"
LATEST = "latest"
BYTES_PER_PARAMETER = 16
"""A full checkpoint at its largest, ZeRO-2 in fp32: weights, master weights and Adam's two moments (measured; 14 in
bf16, 12 under ZeRO-3)."""


class CheckpointManager:
    """Saves, finds, checks and loads the checkpoints of one run."""

    def __init__(self, directory: Path, identity: dict[str, Any], keep_last: int, ranks: Ranks) -> None:
        """identity: dotted key -> value of everything a checkpoint must agree with to be continued."""
        self.directory, self.identity, self.keep_last, self.ranks = directory, identity, keep_last, ranks

    def find(self, resume: str) -> Path | None:
        """The checkpoint that `resume` (auto, never, or a path) means; None to start anew.

        Raises UserError for a path that is no checkpoint, and for a `latest` that names none.
        """
        if resume == "never":
            return None
        if resume == "auto":
            pointer = self.directory / LATEST
            return self._checked(self.directory / pointer.read_text().strip()) if pointer.exists() else None
        path = Path(resume)
        for candidate in (path, path / "checkpoints"):
            if (candidate / LATEST).exists():
                return self._checked(candidate / (candidate / LATEST).read_text().strip())
        return self._checked(path)

    def read_state(self, checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The training state and the hooks' states. Raises UserError when they are of another model, data or batch."""
        try:
            saved = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
            state, hooks, identity = saved["state"], saved["hooks"], saved["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{checkpoint / STATE_FILE}: damaged; name another checkpoint with --resume") from error
        for key, value in self.identity.items():
            if identity.get(key) != value:
                raise UserError(
                    f"{checkpoint}: saved with {key} {identity.get(key)}, this run has {value}; "
                    f"give the saved value to continue, or --resume never with another --name to start anew"
                )
        return state, hooks

    def load(self, engine: Any, checkpoint: Path) -> None:
        """Weights, optimizer and schedule of a checkpoint into a fresh engine, on every rank."""
        loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        if loaded is None:
            raise UserError(f"{checkpoint}: DeepSpeed found no checkpoint there; name another with --resume")

    def save(self, engine: Any, state: dict[str, Any], hooks: dict[str, Any]) -> None:
        """Write a checkpoint of this state and drop those beyond keep_last. Every rank calls it."""
        name = f"step-{state['global_step']:08d}"
        temporary, final = self.directory / f"{name}.tmp", self.directory / name
        if self.ranks.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        barrier()
        engine.save_checkpoint(str(self.directory), tag=temporary.name, save_latest=False)
        barrier()
        if self.ranks.is_main:
            _write(
                temporary / STATE_FILE,
                json.dumps({"state": state, "hooks": hooks, "identity": self.identity}, indent=1),
            )
            replaced = self.directory / f"{name}.replaced.tmp"
            if final.exists():
                os.rename(final, replaced)
            os.rename(temporary, final)
            _write(self.directory / f"{LATEST}.tmp", name + "\n")
            os.replace(self.directory / f"{LATEST}.tmp", self.directory / LATEST)
            shutil.rmtree(replaced, ignore_errors=True)
            self._drop_all_but(name)
        barrier()

    def _drop_all_but(self, newest: str) -> None:
        """Keep the last keep_last up to the newest; later steps are of a branch that a resume has abandoned."""
        kept = [path for path in self.whole() if path.name <= newest][-self.keep_last :]
        for path in set(self.whole()) - set(kept):
            shutil.rmtree(path)

    def whole(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        found = (path.parent for path in self.directory.glob(f"step-*/{STATE_FILE}"))
        return sorted(path for path in found if path.suffix != ".tmp")

    def require_space(self, n_parameters: int) -> None:
        """Raises UserError when the disk cannot take the checkpoints this run will keep, and the one being written."""
        missing = self.keep_last + 1 - len(self.whole())
        needed = max(1, missing) * n_parameters * BYTES_PER_PARAMETER
        existing = next(parent for parent in (self.directory, *self.directory.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise UserError(
                f"checkpoint.keep_last: {self.keep_last} checkpoints of this model need {needed / 2**30:.1f} GiB in "
                f"{self.directory}, {free / 2**30:.1f} GiB are free; lower keep_last or choose another --output_dir"
            )

    def _checked(self, path: Path) -> Path:
        if not (path / STATE_FILE).exists():
            raise UserError(f"{path}: no checkpoint is there (no {STATE_FILE}); --resume takes auto, never or a path")
        return path


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
