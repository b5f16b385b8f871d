"""Files of tensors, written as they come: those of a checkpoint are flushed to the disk and hashed."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from genesis_ds.disk import FileRecord

SAFETENSORS_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


class HashingFile:
    """A file that is written once, from its beginning to its end.

    An error of the disk is kept until close: torch's archive writer, which is C++, would end the process on one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, open(path, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        self.nbytes, self.sha256 = 0, hashlib.sha256()
        self.hasher = ThreadPoolExecutor(max_workers=1)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes or a memoryview; return the number of bytes."""
        rest = memoryview(data).cast("B")
        nbytes = len(rest)
        hashed = self.hasher.submit(self.sha256.update, rest)  # both let other threads run meanwhile
        try:
            while rest and self.error is None:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.error = error
        hashed.result()
        self.nbytes += nbytes
        return nbytes

    def flush(self) -> None:
        """Do nothing: no bytes are held back. torch.save calls it."""

    def close(self) -> FileRecord:
        """Flush the file to the disk and close it; return its size and hash.

        Raises the OSError of any write, with the file's name.
        """
        with self.file, self.hasher:
            try:
                if self.error:
                    raise self.error
                os.fsync(self.file.fileno())
            except OSError as error:
                error.filename = str(self.path)
                raise
        return FileRecord(self.nbytes, self.sha256.hexdigest())


def write_tensors(path: Path, value: Any) -> FileRecord:
    """Write a value by torch.save; return the file's size and hash."""
    file = HashingFile(path)
    torch.save(value, cast(IO[bytes], file))
    return file.close()


def write_hashed_text(path: Path, text: str) -> FileRecord:
    """Write a text in UTF-8; return the file's size and hash."""
    file = HashingFile(path)
    file.write(text.encode())
    return file.close()


def write_safetensors(
    path: Path, shapes: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]], metadata: dict[str, str]
) -> None:
    """Write tensors one at a time: safetensors' own writer has all of them in memory.

    shapes: what will come, in its order; without data (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in shapes.items():
        begin, end = end, end + tensor.nbytes
        place = {"dtype": SAFETENSORS_DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = place
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), expected in zip(tensors, shapes, strict=True):
            assert name == expected
            assert (tensor.shape, tensor.dtype) == (shapes[name].shape, shapes[name].dtype)
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def copied(value: Any) -> Any:
    """Return the value with copies of its tensors on the host, which training does not change.

    A view is copied alone, without the rest of its storage.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, copied(item)) for key, item in value.items())
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return value
