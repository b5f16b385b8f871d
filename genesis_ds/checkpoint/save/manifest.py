"""The manifest of a checkpoint: what it is, and the size and sha256 of each of its files.

It says whether a checkpoint is whole and unchanged since it was written. It does not say who wrote it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.save.files import write_hashed_text
from genesis_ds.disk import FileRecord, hash_file
from genesis_ds.errors import UserError, named_by_user
from genesis_ds.stored import parse_stored

MANIFEST, STATE_FILE = "manifest.json", "training_state.json"
FORMAT = 1
READ_SUFFIXES = (".pt", ".json", ".tensor.swp")
"""Endings of the names of the files that are read from a checkpoint."""
REMEDY = "restore it, or use another checkpoint"


@dataclass(frozen=True)
class StateFile:
    """The content of training_state.json."""

    state: dict[str, Any]
    hooks: dict[str, Any]
    identity: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    sequence: int
    """How many checkpoints of the run were made before this one; the highest is the newest."""
    saved: str
    """When it was saved, ISO 8601 in UTC."""
    global_step: int
    consumed_samples: int
    n_ranks: int
    zero_stage: int
    best_by: str | None
    """checkpoint.best_by: the metric by which the best checkpoints are kept."""
    value: float | None
    """The value of best_by when it was last measured before the save; None before that."""
    config: dict[str, Any]
    """The resolved run."""
    versions: dict[str, str]
    files: dict[str, FileRecord]
    """Path within the checkpoint -> size and hash of the file."""
    masters: str | None = None
    """The dtype of the master weights; None in checkpoints of before the field."""

    def write(self, directory: Path) -> None:
        """Write manifest.json into the directory, flushed to the disk."""
        body = dataclasses.asdict(self) | {"format": FORMAT}
        write_hashed_text(directory / MANIFEST, json.dumps(body | {"sha256": _digest(body)}, indent=1))

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Return the manifest of a checkpoint. Raises UserError where it is missing, damaged or of another format."""
        path = directory / MANIFEST
        if not path.is_file():
            raise UserError(f"{path}: missing")
        with named_by_user(path):
            content = path.read_bytes()
        manifest = parse_stored(content, cls, path, remedy="", file_format=FORMAT)
        body = json.loads(content)
        if body.pop("sha256", None) != _digest(body):
            raise UserError(f"{path}: damaged (its own sha256 differs)")
        return manifest

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(record.nbytes for record in self.files.values())


@dataclass(frozen=True)
class Inspection:
    """The problems in a checkpoint, every byte of which was read, and what else to say of it; a line each."""

    problems: list[str]
    """None in a good checkpoint."""
    notices: list[str] = field(default_factory=list)
    """Files that are not the checkpoint's and are never read, such as a file manager's."""


def inspect(directory: Path) -> Inspection:
    """Compare every byte of a checkpoint with its manifest."""
    try:
        manifest = Manifest.read(directory)
    except UserError as error:
        return Inspection([str(error)])
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()} - {MANIFEST}
    problems: list[str] = []
    notices: list[str] = []
    for name in sorted(present - manifest.files.keys()):
        could_be_read = name.endswith(READ_SUFFIXES) and not Path(name).name.startswith(".")
        line = f"{directory / name}: not in the manifest"
        (problems if could_be_read else notices).append(line if could_be_read else f"{line}, and not read")
    for name, record in manifest.files.items():
        path = directory / name
        if name not in present:
            problems.append(f"{path}: missing")
        elif (size := path.stat().st_size) != record.nbytes:
            problems.append(f"{path}: {size:,} bytes, the manifest says {record.nbytes:,}")
        elif hash_file(path) != record:
            problems.append(f"{path}: changed since it was written (sha256)")
    return Inspection(problems, notices)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
