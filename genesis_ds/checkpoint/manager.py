"""Checkpoints of a run.

    checkpoints/
      latest                   the name of the newest whole checkpoint
      step-00000500/           DeepSpeed's files of all ranks
        training_state.json    step, position in the data, hooks, and the identity of the run
      step-00000500-NAME/      the same, made because a hook asked for it under this name, and kept for longer
      weights/
        step-00000500.safetensors   the weights alone; they stay

A checkpoint is written under a temporary name and renamed when every rank has finished; `latest` is replaced after
that. What `latest` names is therefore always whole.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from genesis_ds.engine.deepspeed import gathered_weights
from genesis_ds.engine.distributed import Ranks, barrier
from genesis_ds.errors import UserError

STATE_FILE = "training_state.json"
LATEST = "latest"
BYTES_PER_PARAMETER = 16
"""A full checkpoint at its largest, ZeRO-2 in fp32: weights, master weights and Adam's two moments (measured; 14 in
bf16, 12 under ZeRO-3)."""

GROKFAST_BYTES_PER_PARAMETER = 4
"""Of the filter's average, besides."""
BYTES_PER_WEIGHT = 4
"""In a file of weights alone, at its largest (fp32)."""


class CheckpointManager:
    """Saves, finds, checks and loads the checkpoints of one run."""

    def __init__(
        self, directory: Path, identity: dict[str, Any], keep_last: int, ranks: Ranks, keep_named: int = 1
    ) -> None:
        """identity: dotted key -> value of everything a checkpoint must agree with to be continued.

        keep_last, keep_named: how many of the newest plain checkpoints stay, and of the newest with a name.
        """
        self.directory, self.identity, self.ranks = directory, identity, ranks
        self.keep_last, self.keep_named = keep_last, keep_named

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

    def save(self, engine: Any, state: dict[str, Any], hooks: dict[str, Any], save_as: str | None = None) -> None:
        """Write a checkpoint of this state, under a name if it has one, and drop old ones. Every rank calls it."""
        name = _step(state["global_step"]) + (f"-{save_as}" if save_as else "")
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
        """Keep the last ones up to the newest; later steps are of a branch that a resume has abandoned."""
        upto = [path for path in self.whole() if path.name <= newest]
        named = [path for path in upto if path.name.count("-") > 1]
        plain = [path for path in upto if path not in named]
        for path in {*self.whole()} - {*plain[-self.keep_last :], *named[-self.keep_named :]}:
            shutil.rmtree(path)

    def save_weights(self, engine: Any, global_step: int) -> None:
        """Write the weights alone. Every rank calls it; the main one holds them all on the host meanwhile."""
        weights = gathered_weights(engine, keep=self.ranks.is_main)
        if self.ranks.is_main:
            final = self.directory / "weights" / f"{_step(global_step)}.safetensors"
            final.parent.mkdir(exist_ok=True)
            temporary = final.with_suffix(".tmp")
            save_file(weights, temporary, metadata={"global_step": str(global_step)})
            os.replace(temporary, final)

    def whole(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        found = (path.parent for path in self.directory.glob(f"step-*/{STATE_FILE}"))
        return sorted(path for path in found if path.suffix != ".tmp")

    def require_space(self, n_parameters: int, n_weights: int, grokfast: bool) -> None:
        """Raises UserError when the disk cannot take the checkpoints this run will keep, and the one being written.

        n_weights: how many files of weights it will write. Named checkpoints may never be; they are not counted.
        """
        missing = self.keep_last + 1 - len(self.whole())
        per_parameter = BYTES_PER_PARAMETER + (GROKFAST_BYTES_PER_PARAMETER if grokfast else 0)
        needed = n_parameters * (max(1, missing) * per_parameter + n_weights * BYTES_PER_WEIGHT)
        existing = next(parent for parent in (self.directory, *self.directory.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise UserError(
                f"checkpoint.keep_last: {self.keep_last} checkpoints of this model"
                + (f" and {n_weights} files of its weights" if n_weights else "")
                + f" need {needed / 2**30:.1f} GiB in {self.directory}, {free / 2**30:.1f} GiB are free; lower "
                + ("keep_last or weights_per_decade" if n_weights else "keep_last")
                + " or choose another --output_dir"
            )

    def _checked(self, path: Path) -> Path:
        if not (path / STATE_FILE).exists():
            raise UserError(f"{path}: no checkpoint is there (no {STATE_FILE}); --resume takes auto, never or a path")
        return path


def _step(global_step: int) -> str:
    return f"step-{global_step:08d}"


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
