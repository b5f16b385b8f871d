"""Files as the disk has them: hashed, flushed, locked, and put in their place whole or not at all."""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from genesis_ds.errors import OF_A_PATH, UserError, named_by_user

NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EBADF})
"""What a file system says that has no fsync of directories, no locks or no exchange of names."""
UMASK = os.umask(0o077)
os.umask(UMASK)  # there is no other way to ask
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # fcntl.h, stdio.h


class NotWritten(UserError):
    """A file or directory could not be written; what was there before is untouched."""


@dataclass(frozen=True)
class FileRecord:
    """The size and hash of a file as it was written."""

    nbytes: int
    sha256: str


def hash_file(path: Path) -> FileRecord:
    """Return the size and hash of a file as it is on the disk now."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return FileRecord(file.tell(), digest.hexdigest())


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 where it is not there."""
    return path.stat().st_size if path.exists() else 0


def flush(path: Path) -> None:
    """Make a file's content, or the names in a directory, survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED or not path.is_dir():  # some network file systems have it for files alone
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Give a path to write a file or a directory at, which is flushed and put in the place of `path` afterwards.

    Readers see the old or the new, never a half; whatever ends the block, nothing else is left. What is written lies
    in a temporary directory of its own (.NAME.*.tmp), so that several processes may write the same.
    within: where that is, if it is on the same disk; by default beside `path`. Where `path` is a link, what it leads
    to is replaced. Raises NotWritten for an error that the user can mend, and where something else than a file or a
    directory is in the place; any other OSError as it is.
    """
    given, path = path, Path(os.path.realpath(path))
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        raise NotWritten(f"{given}: is no file and no directory, but a device, a pipe or a loop of links; name another")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = within if within and within.stat().st_dev == path.parent.stat().st_dev else path.parent
            with tempfile.TemporaryDirectory(
                prefix=f".{path.name}.", suffix=".tmp", dir=beside, ignore_cleanup_errors=True
            ) as directory:
                new = Path(directory) / path.name
                yield new
                for written in (*new.rglob("*"), new):
                    if written.is_file():
                        written.chmod(0o666 & ~UMASK)  # safetensors' come without what others may
                    flush(written)
                if new.is_dir():
                    _put_directory(new, path)
                else:
                    os.replace(new, path)
                flush(path.parent)
    except OSError as error:
        if error.errno in OF_A_PATH:
            reason = f"{given}: {error.strerror or error}"
            raise NotWritten(f"{reason}; check the path, its permissions and the free space") from error
        raise


def _put_directory(new: Path, path: Path) -> None:
    try:
        os.rename(new, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        exchange(new, path)


def require_alike(path: Path, beginning: bytes) -> None:
    """Raise UserError unless a file may be put at `path`: none is there, or one that begins as the new one does."""
    with named_by_user(path):
        if not path.exists():
            return
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(len(beginning)) == beginning:
                    return
    raise UserError(f"{path}: exists, and is something else than what belongs there; it is left alone: name another")


def require_place(path: Path, what: str, beginning: bytes) -> None:
    """Raise UserError unless `replacing` may put a file that begins so at `path`. Leaves nothing there.

    what: the key or flag that names it.
    """
    if not path.absolute().parent.is_dir():
        raise UserError(f"{what}: {path} is in no directory that is there; make it first")
    if path.is_dir():
        raise UserError(f"{what}: {path} is a directory; name a file")
    require_alike(path, beginning)
    beside = Path(os.path.realpath(path)).parent
    try:
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=beside).cleanup()
    except OSError as error:
        if error.errno not in OF_A_PATH:
            raise
        raise UserError(f"{what}: {path}: nothing can be written there ({error.strerror}); name another") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the own kind of error of a library that writes files into the OSError that it tells of."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy's, of a file of which the disk has taken a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    except Exception as error:  # safetensors' is a class of its own, torch's a RuntimeError
        if not (number := re.search(r"os error (\d+)", str(error))):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Put a text in UTF-8 in the place of a file's, whole or not at all. Raises as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def exchange(one: Path, other: Path) -> None:
    """Let two paths that both exist change their names, at once where the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in NOT_OFFERED:
            raise OSError(number, os.strerror(number), str(other))
    aside = one.with_name(f"{one.name}.aside")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def remove(path: Path) -> None:
    """Remove a file, a directory with all that is in it, or a link but never what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy_away(path: Path) -> bool:
    """Remove what is of no use, or warn where that is not possible. Return whether it is gone."""
    try:
        remove(path)
        return True
    except OSError as error:
        inside = f" ({error.filename})" if error.filename and Path(error.filename).name != path.name else ""
        warn(f"{path}: {error.strerror or error}{inside}; it is of no use any more: remove it by hand")
        return False


def lock(path: Path, wait: bool) -> IO[str] | None:
    """Return the file, locked until it is closed or the process ends; None while another process has the lock.

    wait: until the other lets it go. On a file system without locks it warns and goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the kernel closes it with the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            file.close()
            raise
        warn(f"{path}: this file system has no locks; see to it that no other process uses {path.parent} meanwhile")
    return file


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file; False where that cannot be known."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def warn(message: str) -> None:
    """Print a line for people on the standard error."""
    with suppress(OSError):
        print(f"warning: {message}", file=sys.stderr, flush=True)
