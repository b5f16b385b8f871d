"""The manifest of a checkpoint: what it is, and the size and sha256 of each of its files.

It says whether a checkpoint is whole and unchanged since it was written. It does not say who wrote it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.files import write_text
from genesis_ds.disk import FileRecord, hash_file
from genesis_ds.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says."""

    sequence: int
    """How many checkpoints of the run were made before this one; the highest is the newest."""
    saved: str
    """When, ISO 8601 in UTC."""
    global_step: int
    consumed_samples: int
    n_ranks: int
    zero_stage: int
    best_by: str | None
    """checkpoint.best_by: the metric by which the best checkpoints are kept."""
    value: float | None
    """Of best_by when it was last measured."""
    config: dict[str, Any]
    """The resolved run."""
    versions: dict[str, str]
    files: dict[str, FileRecord]
    """Path within the checkpoint -> what was written."""

    def write(self, directory: Path) -> None:
        """Into the directory, flushed to the disk."""
        body = dataclasses.asdict(self) | {"format": FORMAT}
        write_text(directory / MANIFEST, json.dumps(body | {"sha256": _digest(body)}, indent=1))

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Of a checkpoint. Raises UserError where there is none, or a damaged one, or one of a later format."""
        path = directory / MANIFEST
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body.pop("sha256") != _digest(body):
                raise ValueError("its own sha256 differs")
            if (version := body.pop("format")) != FORMAT:
                raise UserError(f"{path}: format {version}, this program reads {FORMAT}; use the program that wrote it")
            files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
            return cls(**body, files=files)
        except FileNotFoundError as error:
            raise UserError(f"{path}: missing") from error
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: damaged") from error

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(record.nbytes for record in self.files.values())


def problems(directory: Path) -> list[str]:
    """What is wrong with a checkpoint, a line each; nothing for a good one. Reads every byte of it."""
    try:
        manifest = Manifest.read(directory)
    except UserError as error:
        return [str(error)]
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()} - {MANIFEST}
    found = [f"{directory / name}: not in the manifest" for name in sorted(present - manifest.files.keys())]
    for name, record in manifest.files.items():
        path = directory / name
        if name not in present:
            found.append(f"{path}: missing")
        elif (size := path.stat().st_size) != record.nbytes:
            found.append(f"{path}: {size:,} bytes, the manifest says {record.nbytes:,}")
        elif hash_file(path) != record:
            found.append(f"{path}: changed since it was written (sha256)")
    return found


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
