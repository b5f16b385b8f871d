"""How long and how often: optimizer steps, or epochs of language modelling ("2 epochs")."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Duration = int | str
"""Optimizer steps, or a number of epochs such as "0.5 epochs"."""

C = TypeVar("C", bound="DataclassInstance")
_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) ?epochs?")


def epochs(duration: str) -> float:
    """Return the number of epochs. Raises ValueError for anything else."""
    if not (match := _EPOCHS.fullmatch(duration.strip())):
        raise ValueError(duration)
    return float(match[1])


def steps(duration: Duration, steps_per_epoch: float) -> int:
    """Return a duration in optimizer steps, rounded, at least one where it is not 0."""
    if isinstance(duration, int):
        return duration
    number = epochs(duration)
    return max(1, round(number * steps_per_epoch)) if number else 0


def given_in_epochs(config: Any) -> list[str]:
    """Return the dotted names of a configuration's fields that are given in epochs."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += [f"{field.name}.{name}" for name in given_in_epochs(value)]
        elif field.type is Duration and isinstance(value, str):
            names.append(field.name)
    return names


def in_steps(config: C, steps_per_epoch: float) -> C:
    """Return the configuration with every duration in steps, rounded, at least one where it is not 0."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = in_steps(value, steps_per_epoch)
        elif field.type is Duration:
            changes[field.name] = steps(value, steps_per_epoch)
    return dataclasses.replace(config, **changes)


def log_spaced(step: int, per_decade: int) -> bool:
    """Return whether a step is one of per_decade from each power of ten to the next, evenly spaced in log10.

    Step 1 is among them. per_decade 0: none is.
    """
    return per_decade > 0 and (step == 1 or _index(step, per_decade) > _index(step - 1, per_decade))


def count_log_spaced(first: int, last: int, per_decade: int) -> int:
    """Return how many steps from first to last log_spaced chooses, without going through them all."""
    if per_decade <= 0 or last < first:
        return 0
    near = min(last, max(first - 1, per_decade))  # further on, no two of them fall on one step
    return sum(log_spaced(step, per_decade) for step in range(first, near + 1)) + (
        _index(last, per_decade) - _index(near, per_decade) if last > near else 0
    )


def _index(step: int, per_decade: int) -> int:
    return math.floor(math.log10(step) * per_decade + 1e-9)
