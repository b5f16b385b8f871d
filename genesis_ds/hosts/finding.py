"""What a check finds, and how a list of checks is gone through.

A check is a function of a Case; its name is the check's, its docstring says what it looks for. It returns what it
found, None where that is of no matter here, or raises UserError.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from genesis_ds.errors import UserError, shown
from genesis_ds.hosts.case import Case

Status = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Finding:
    """What a check found on a host, or on several."""

    status: Status
    said: str
    mend: str = ""
    """A command, or what to do; "" where nothing is wrong."""
    check: str = ""
    hosts: tuple[str, ...] = ()
    """By their names in the hostfile; none without one."""


Check = Callable[[Case], Finding | None]


def ok(said: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", said)


def warning(said: str, mend: str) -> Finding:
    """Return what costs something, though a run can start."""
    return Finding("warning", said, mend)


def fails(said: str, mend: str) -> Finding:
    """Return why a run cannot start."""
    return Finding("fails", said, mend)


def mistake(error: UserError) -> Finding:
    """Return the mistake that a run would end with. What to do stands behind the last semicolon."""
    said, _, mend = str(error).rpartition("; ")
    return fails(said or mend, mend if said else "")


def go_through(checks: Iterable[Check], case: Case) -> Iterator[Finding]:
    """Yield what each check found, with its name. One that crashes fails, and the others go on.

    A mistake that several checks meet, such as a ds_config that is refused, is said by the first.
    """
    said = set[str]()
    for check in checks:
        try:
            found = check(case)
        except UserError as error:
            found = None if str(error) in said else mistake(error)
            said.add(str(error))
        except Exception as error:
            reason = shown(f"{type(error).__name__}: {error}")
            found = fails(f"cannot be found out: {reason}", "see what the machine says")
        if found:
            yield replace(found, check=name_of(check))


def name_of(check: Callable[..., object]) -> str:
    """Return the name of a check: that of its function, with blanks."""
    return check.__name__.replace("_", " ")
