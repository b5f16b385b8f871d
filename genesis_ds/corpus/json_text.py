"""JSON that other people wrote: whatever it holds, it is read or it is a ValueError."""

import json
from typing import Any

_MOST_DIGITS = 18


def load_json(text: str) -> Any:
    """Return the value in a JSON text. Raises ValueError, without quoting it, for what cannot be read or is ambiguous.

    Ambiguous is an object in which a key stands twice; an integer of more than 18 digits and a nesting of more than
    some thousand levels cannot be read. NaN and infinities are read as floats, as pandas writes them.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return record


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)
