"""Which checkpoint of a run is meant."""

from pathlib import Path

from genesis_ds.checkpoint.save.directory import checkpoints_directory, checkpoints_in, newest_good
from genesis_ds.checkpoint.save.manifest import MANIFEST, Manifest, inspect
from genesis_ds.checkpoint.save.policy import KeepPolicy, Kept, best, newest_of, reached
from genesis_ds.corpus.storage import is_corpus
from genesis_ds.disk import warn
from genesis_ds.errors import UserError


def find_model(path: Path, checkpoint: str | None = None) -> Path:
    """Return where the model of a path is: of a run, the checkpoint that is meant, every byte of it checked.

    checkpoint: `best`, `step-N` or a name; None: the newest good one, or a path that is no run's as it is. Raises
    UserError where it is not there or not good.
    """
    if is_corpus(path):
        raise UserError(f"{path}: a corpus, and no model; give a run, a checkpoint or an export")
    directory = None if (path / MANIFEST).exists() else checkpoints_directory(path)
    if directory is None:
        if checkpoint:
            raise UserError(f"checkpoint: {checkpoint}, but {path} is no run with checkpoints; leave it out")
        if (path / MANIFEST).exists() and (wrong := inspect(path).problems):
            raise UserError(f"{wrong[0]}; give another checkpoint")
        return path
    if checkpoint:
        chosen = _chosen(directory, checkpoint)
        if wrong := inspect(chosen).problems:
            raise UserError(f"{wrong[0]}; give another checkpoint")
        return chosen
    if (found := newest_good(directory)) is None:
        raise UserError(f"{path}: no checkpoint is there yet; train first")
    for notice in found.notices:
        warn(notice)
    return found.path


def snapshots(path: Path, n: int) -> list[Path]:
    """Return where the last n weights that a run has kept are, the oldest first: one of each step.

    They are those of its files of weights alone, and of its checkpoints. Those beyond the newest checkpoint may be of a
    branch that a resume has abandoned, and are left out. Raises UserError where it has fewer.
    """
    directory = checkpoints_directory(path)
    if directory is None:
        raise UserError(f"snapshots: {path} is no run with checkpoints; give a run, or the files themselves")
    there = {kept.step: kept.path for kept in reached(checkpoints_in(directory))}
    last = max(there, default=-1)
    alone = {int(file.stem.split("-")[1]): file for file in directory.glob("weights/step-*.safetensors")}
    there |= {step: file for step, file in alone.items() if step <= last}
    if len(there) < n:
        raise UserError(
            f"snapshots: {path} has kept the weights of {len(there)} step{'s' * (len(there) != 1)}, not {n}; "
            "checkpoint.weights_per_decade and checkpoint.milestones of a run keep more"
        )
    return [there[step] for step in sorted(there)[-n:]]


def _chosen(directory: Path, wanted: str) -> Path:
    """Return the checkpoint of a run that is meant. Raises UserError where there is none."""
    there = checkpoints_in(directory)
    if wanted == "best":
        return _best(directory, there)
    step = int(wanted[5:]) if wanted.startswith("step-") and wanted[5:].isdecimal() else -1
    for kept in there:
        if kept.path.name == wanted or wanted == kept.tag or (kept.step == step and not kept.tag):
            return kept.path
    names = ", ".join(["best", *(kept.path.name for kept in there)])
    raise UserError(f"checkpoint: {directory} has no '{wanted}'; there are {names}")


def _best(directory: Path, there: list[Kept]) -> Path:
    """Return the best checkpoint by what the run was judged by when it was last saved."""
    last = newest_of(there)
    judged = best(there, KeepPolicy.of(Manifest.read(last.path)).config) if last else []
    if not judged:
        raise UserError(
            f"checkpoint: best, but none of {directory} has been judged; set checkpoint.best_by in the run, or give "
            f"one of {', '.join(kept.path.name for kept in there)}"
        )
    return judged[0].path
