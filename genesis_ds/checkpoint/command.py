"""`genesis-ds checkpoint`: what lies in a run's directory, without an engine."""

from dataclasses import replace
from pathlib import Path

import torch

from genesis_ds.checkpoint.load.find import find_model
from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.models.comparison import (
    CLOSE,
    EXPECTED,
    expected_beside,
    fixed_tokens,
    largest_difference,
    logits_of_file,
)
from genesis_ds.checkpoint.models.export import Dtype, Target, export, write_export
from genesis_ds.checkpoint.models.legacy import model_of, open_legacy
from genesis_ds.checkpoint.save.directory import (
    checkpoints_directory,
    checkpoints_in,
    claim,
    leftovers,
    prune,
)
from genesis_ds.checkpoint.save.manager import write_weights
from genesis_ds.checkpoint.save.manifest import MANIFEST, Manifest, inspect
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config.checks import require_positive
from genesis_ds.disk import tidy_away
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import format_bytes


def checkpoint_directory(path: str) -> Path:
    """Return the directory of checkpoints, given it or its run's directory. Raises UserError where none is there."""
    if directory := checkpoints_directory(Path(path)):
        return directory
    raise UserError(f"{path}: no checkpoint is there; give a run's directory, or its checkpoints/")


def consolidate(path: str, checkpoint: str | None = None, trust: bool = False) -> Path:
    """Write the whole fp32 weights of a checkpoint into one file beside it; return that file.

    checkpoint: as in find_model. trust: as in safe_load.
    """
    if not (Path(path) / MANIFEST).exists():
        checkpoint_directory(path)
    found = find_model(Path(path), checkpoint)
    files = ZeroFiles(found, trust)
    output = found.parent / "weights" / f"{found.name}.safetensors"
    shapes = {name: torch.empty(files.shapes[name], device="meta") for name in files.names}
    write_weights(shapes, ((name, files.weight(name)) for name in files.names), output)
    return output


def export_model(
    path: str,
    output: str,
    to: Target,
    dtype: Dtype,
    *,
    checkpoint: str | None = None,
    average: bool = False,
    trust: bool = False,
) -> list[str]:
    """Export a run's checkpoint, or whatever else `export` reads; return what to print, a line each.

    checkpoint: as in find_model. average: as in read_checkpoint. trust: as in safe_load.
    """
    source = find_model(Path(path), checkpoint)
    return [f"{source} -> {output}", *export(source, Path(output), to, dtype, average=average, trust=trust)]


def import_legacy(path: Path, output: Path, n_heads: int | None, *, trust: bool = False) -> tuple[list[str], bool]:
    """Export a checkpoint of the earlier code, and compare the logits of what was written with those of what was read.

    Return what to print, a line each, and whether they are the same but for rounding. n_heads, trust: as in
    read_legacy. Raises UserError for anything else than such a checkpoint, before anything is written.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; give a file step_N.pt or a directory of the earlier code")
    file = open_legacy(path, trust)
    model, expected = model_of(file, n_heads), expected_beside(path)
    notices = write_export(model, None, output, to="safetensors")
    shape, written = model.config, open_model(output).decoder()
    tokens = fixed_tokens(shape)
    differences = {
        f"on {tokens.numel()} tokens of a fixed text, against the file's tensors in a forward pass of their own": (
            largest_difference(written, tokens, logits_of_file(file, shape, tokens))
        )
    }
    if expected is not None:
        theirs = f"on the {expected[0].numel()} tokens of {EXPECTED} beside it, against the logits there"
        differences[theirs] = largest_difference(written, expected[0], expected[1])
    lines = [
        f"{path} -> {output}",
        f"{shape.n_layers} layers x {shape.dim}, {shape.n_heads} heads, intermediate {shape.intermediate_size}, "
        f"{shape.norm}, vocabulary {shape.vocab_size}, {shape.n_parameters:,} parameters",
        *notices,
        *(f"largest logit difference {value:.1e} {where}" for where, value in differences.items()),
    ]
    good = max(differences.values()) <= CLOSE
    return lines if good else [*lines, f"more than {CLOSE:g}: {output} is not the model that was trained"], good


def table(path: str) -> list[str]:
    """Return a heading and a line for each checkpoint, newest first."""
    lines = [f"{'checkpoint':<36}{'saved (UTC)':<21}{'size':>11}  {'ranks':>5} {'ZeRO':>5}"]
    for kept in checkpoints_in(checkpoint_directory(path)):
        try:
            manifest = Manifest.read(kept.path)
        except UserError as error:
            lines.append(f"{kept.path.name:<36}{error}")
            continue
        saved, size = manifest.saved[:19].replace("T", " "), format_bytes(manifest.nbytes)
        value = "" if manifest.value is None else f"  {manifest.best_by} {manifest.value:.4g}"
        lines.append(
            f"{kept.path.name:<36}{saved:<21}{size:>11}  {manifest.n_ranks:>5} {manifest.zero_stage:>5}{value}"
        )
    return lines


def verify(path: str) -> tuple[list[str], bool]:
    """Check every byte of the checkpoints; return a line for each good one and problem, and whether all are good."""
    single = (Path(path) / MANIFEST).exists()
    directories = [Path(path)] if single else [kept.path for kept in checkpoints_in(checkpoint_directory(path))]
    found = {directory: inspect(directory) for directory in directories}
    lines: list[str] = []
    for directory, inspection in found.items():
        lines += inspection.problems or [f"{directory}: good"]
        lines += [f"notice: {notice}" for notice in inspection.notices]
    return lines, not any(inspection.problems for inspection in found.values())


def prune_directory(path: str, keep_last: int | None) -> list[str]:
    """Remove the checkpoints that the run's policy does not keep, and what crashes have left; return a line for each.

    keep_last: in place of the run's own, 1 or more. Raises UserError while the run is training, and unless the newest
    checkpoint is good, since the others are all that is left then.
    """
    directory = checkpoint_directory(path)
    newest = checkpoints_in(directory)[0].path
    if wrong := inspect(newest).problems:
        raise UserError(f"{wrong[0]}; the older ones stay")
    policy = KeepPolicy.of(Manifest.read(newest))
    if keep_last is not None:
        require_positive("--keep_last", keep_last)
        policy = replace(policy, config=replace(policy.config, keep_last=keep_last))
    claim(directory)
    unfinished = [left for left in leftovers(directory) if tidy_away(left)]
    return [f"removed {gone}" for gone in (*unfinished, *prune(directory, policy))]
