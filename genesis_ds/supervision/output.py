"""Standard streams that do not end a run when nobody reads them any more."""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""The reader of a pipe, the terminal or the file itself is gone for good."""


class _Outlet(io.FileIO):
    """A file descriptor that takes everything: what cannot be written is lost."""

    copy: Path | None = None
    """A file that gets the same at its end, for all outlets of the process: a launcher may lose what it is given."""

    def write(self, data: Any) -> int:
        n_taken = self._write(data)
        note(memoryview(data)[:n_taken])
        return n_taken

    def _write(self, data: Any) -> int:
        try:
            written = super().write(data)
            while written is None:  # another process has made the terminal non-blocking
                select.select([], [self], [], 1.0)
                written = super().write(data)
            return written
        except OSError as error:
            if error.errno in GONE:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes


def note(data: bytes | memoryview) -> None:
    """Add bytes to the copy of the output alone, where there is one."""
    if _Outlet.copy:
        with suppress(OSError):
            _Outlet.copy.parent.mkdir(exist_ok=True)
            with open(_Outlet.copy, "ab") as file:
                file.write(data)


def copy_output(path: Path) -> None:
    """Add what this process prints from now on to a file as well."""
    _Outlet.copy = path


def keep_output_from_failing() -> None:
    """Keep print from raising from now on: not for a closed pipe, a full disk, or a letter that the terminal lacks."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO | None) -> Any:
    if stream is None:  # closed from the start: print does nothing then
        return None
    stream.flush()
    outlet = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(outlet, stream.encoding, "backslashreplace", line_buffering=True)
