"""What a user did wrong, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, where, what is allowed, what to do.

    The command line prints it and exits with code 2; nothing has been written by then.
    """


def one_line(error: UserError | OSError) -> str:
    """What to tell the user; for a file that cannot be read or written, or a full disk, what and where."""
    if isinstance(error, UserError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; check the path, its permissions and the free space"


def nearest(name: str, valid: Iterable[str], otherwise: str | None = None) -> str:
    """The hint that ends a message about an unknown name: the nearest valid one; or all of them, or `otherwise`."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else otherwise or f"valid: {', '.join(sorted(valid))}"
