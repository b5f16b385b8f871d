"""Mistakes of the user, said in one line."""

import bisect
import difflib
import errno
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_WORD, LONGEST_MESSAGE = 300, 2000
"""Characters of a message's longest word, and of the whole of it, that are shown: a user's value may be anything."""
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Controls, marks of direction, separators of lines, lone surrogates: a terminal obeys them, or shows another text."""
OF_A_PATH = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY", "ELOOP", "ENAMETOOLONG", "EINVAL", "ENXIO", "ENODEV"),
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ETXTBSY", "EXDEV"),
    )
)
"""Errors that the user can mend: the path is a wrong one, may not be touched, or the disk is full. Any other, such as
an I/O error, a stale handle or a broken connection of a network file system, is no mistake of the user's."""


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, where, what is allowed, what to do.

    The command line prints it and exits with code 2; nothing has been written by then. Whatever values the message
    quotes, control characters in it are escaped and long words shortened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class Unavailable(UserError):
    """What a task or a measurement needs is not in the data; the message names it."""


def shown(text: object) -> str:
    """Return a text, or anything as one, as one line of limited length that is safe to print."""
    line = _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text))
    line = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda found: _shortened(found[0], LONGEST_WORD), line)
    return _shortened(line, LONGEST_MESSAGE)


def beginning(text: str, columns: int) -> str:
    """Return the beginning of a text as one line, so many columns wide at most: a letter of East Asia takes two."""
    line = shown(text)
    widths = list(itertools.accumulate(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line))
    if not line or widths[-1] <= columns:
        return line
    return line[: bisect.bisect_right(widths, columns - len("..."))].rstrip() + "..."


def require_file(path: str | Path, what: str = "") -> None:
    """Raise UserError for what is there and no file: to read a pipe or a device may take for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{what}{': ' if what else ''}{path}: is no file; give the path of one")


@contextmanager
def named_by_user(
    path: str | Path, what: str = "", remedy: str = "check the path and its permissions"
) -> Iterator[None]:
    """Turn an OSError about a path that the user has named into a UserError of one line.

    what: the key or flag that names it. Any other OSError is no mistake of the user's, and is raised as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in OF_A_PATH:
            raise
        raise UserError(f"{what}{': ' if what else ''}{of_path(error, path)}; {remedy}") from error


def of_path(error: OSError, path: str | Path = "") -> str:
    """Say where and what of an error of the operating system: `path: reason`."""
    return f"{error.filename or path}: {error.strerror or error}"


def nearest(name: str, valid: Iterable[str], otherwise: str | None = None) -> str:
    """Return the hint that ends a message about an unknown name: the nearest valid one, or all, or `otherwise`."""
    valid = list(valid)
    close = difflib.get_close_matches(name[:LONGEST_WORD], valid, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else otherwise or f"valid: {', '.join(sorted(valid))}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 4 :]}"
