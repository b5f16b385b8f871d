"""Checks of the fields of a configuration's dataclasses. Each raises UserError, in one line."""

from dataclasses import fields
from typing import TYPE_CHECKING

from genesis_ds.config.durations import Duration, epochs
from genesis_ds.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LARGEST = 10**12
"""Most steps, tokens, verses or anything else, so that a sum or product of a few stays a number to compute with."""
MOST_LAYERS = 2000
"""Twice the deepest decoder that is known of (DeepNet, arXiv 2203.00555). A memory plan counts through every layer."""
WIDEST, LARGEST_BATCH, MOST_PER_DECADE, LARGEST_MODULUS = 2**20, 2**20, 10_000, 10_000
"""Largest dim, windows in a batch, evaluations or files of weights in a power of ten of steps, and modulus."""


def require(key: str, value: object, holds: bool, allowed: str) -> None:
    """Raise UserError, which says what is allowed, unless the condition on the value holds.

    key: dotted, as the user writes it.
    """
    if not holds:
        raise UserError(f"{key}: {value} is not allowed; give {allowed}")


def require_switched_on(section: str, config: "DataclassInstance", switch: str) -> None:
    """Raise UserError for a field that is not as by default, in a section that is off: its `switch` is not given."""
    for field in (field for field in fields(config) if field.name != switch):
        if getattr(config, field.name) != field.default:
            raise UserError(f"{section}.{field.name}: needs {section}.{switch} as well; give that, or leave it out")


def require_positive(key: str, value: int, most: int = LARGEST) -> None:
    """Raise UserError unless the value is from 1 to `most`."""
    require(key, value, 0 < value <= most, "a whole number above 0" if value <= most else f"{most:,} at most")


def require_count(key: str, value: int, most: int = LARGEST) -> None:
    """Raise UserError unless the value is from 0 to `most`."""
    require(key, value, 0 <= value <= most, "zero or more" if value <= most else f"{most:,} at most")


def require_duration(key: str, value: Duration, zero: str | None = "never") -> None:
    """Raise UserError unless the value is a number of steps or of epochs.

    zero: what 0 means, in words; None: it is not allowed.
    """
    try:
        number = float(value) if isinstance(value, int) else epochs(value)
    except ValueError:
        number = -1.0
    holds = 0 < number <= LARGEST or (zero is not None and number == 0)
    allowed = 'a number of steps, or "N epochs"' + (f"; 0 is {zero}" if zero else "")
    require(key, repr(value), holds, allowed if number <= LARGEST else f"{LARGEST:,} at most")
