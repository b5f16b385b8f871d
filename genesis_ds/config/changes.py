"""In which fields two configurations differ, both as plain data."""

from typing import Any

from genesis_ds.errors import shown

OWN = ("name", "output_dir", "resume", "console")
"""Fields that say where a run is and how it is shown, and nothing of what it trains."""
MOST = 8
"""Changes of a line."""


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping by dotted keys; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the fields of a run that are not as they were, with both values; of many the first, and how many more."""
    was, found = flat(before), flat(now)
    keys = [key for key in found if key in was and found[key] != was[key] and key not in OWN]
    fields = [f"{key} {shown(was[key])}, now {shown(found[key])}" for key in keys[:MOST]]
    return fields + ([f"{len(keys) - MOST} more"] if len(keys) > MOST else [])
