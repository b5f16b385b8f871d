"""Files as the disk has them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written."""

    nbytes: int
    sha256: str


def hash_file(path: Path) -> FileRecord:
    """What is on the disk now."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return FileRecord(file.tell(), digest.hexdigest())


def flush(path: Path) -> None:
    """Make a file's content, or the names in a directory, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
