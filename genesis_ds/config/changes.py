"""In which fields two configurations differ, both as plain data."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from genesis_ds.config import RunConfig
from genesis_ds.errors import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OWN = ("name", "output_dir", "resume", "console")
"""Fields that say where a run is and how it is shown, and nothing of what it trains."""
MOST = 8
"""Changes of a line."""
NOT_GIVEN = "not given"


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping by dotted keys; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def keys_of_any(*several: dict[str, Any]) -> list[str]:
    """Return the keys of flat configurations, but OWN, and an empty mapping where another has keys below it."""
    keys = dict.fromkeys(key for fields in several for key in fields if key not in OWN)
    above = {key[:at] for key in keys for at, character in enumerate(key) if character == "."}
    return [key for key in keys if key not in above or any(fields.get(key, {}) != {} for fields in several)]


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the fields of a run that are not as they were, with both values; of many the first, and how many more.

    A field that only one of them has is a change where it is a key of the user's own (`tasks`), and otherwise one that
    the program of then did not know.
    """
    was, found = flat(before), flat(now)
    of_user = tuple(f"{name}." for name in _mappings(RunConfig()) if _has(was, name) and _has(found, name))
    keys = [
        key
        for key in keys_of_any(found, was)
        if (key in was and key in found) or key.startswith(of_user)
        if found.get(key, NOT_GIVEN) != was.get(key, NOT_GIVEN)
    ]
    fields = [f"{key} {_said(key, was)}, now {_said(key, found)}" for key in keys[:MOST]]
    return fields + ([f"{len(keys) - MOST} more"] if len(keys) > MOST else [])


def _mappings(config: "DataclassInstance") -> Iterator[str]:
    """Yield the dotted names of a configuration's fields whose keys are the user's own."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from (f"{field.name}.{name}" for name in _mappings(value))
        elif isinstance(value, dict):
            yield field.name


def _has(fields: dict[str, Any], name: str) -> bool:
    """Return whether a flat configuration has a mapping, empty or not."""
    return name in fields or any(key.startswith(f"{name}.") for key in fields)


def _said(key: str, fields: dict[str, Any]) -> str:
    return shown(fields[key]) if key in fields else NOT_GIVEN
