"""What the dataclasses of a configuration check their fields with. Each raises UserError, in one line."""

from genesis_ds.durations import Duration, epochs
from genesis_ds.errors import UserError


def require(section: str, key: str, value: object, holds: bool, allowed: str) -> None:
    """The value is one of the allowed."""
    if not holds:
        raise UserError(f"{section}{'.' if section else ''}{key}: {value} is not allowed; give {allowed}")


def require_positive(section: str, key: str, value: int) -> None:
    """The value is 1 or more."""
    require(section, key, value, value > 0, "a whole number above 0")


def require_duration(section: str, key: str, value: Duration, allow_zero: bool = True) -> None:
    """The value is a number of steps or of epochs."""
    try:
        number = float(value) if isinstance(value, int) else epochs(value)
    except ValueError:
        number = -1.0
    holds = number > 0 or (allow_zero and number == 0)
    require(section, key, repr(value), holds, 'a number of steps, or "N epochs"' + ("; 0 is never" * allow_zero))
