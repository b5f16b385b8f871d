"""Read a ds_config file: strict JSON, no duplicate keys. DeepSpeed reads HJSON and says less when it fails."""

import json
from pathlib import Path
from typing import Any

from genesis_ds.errors import UserError


def load_ds_config(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. A file that is missing, is not JSON or repeats a key is a UserError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the DeepSpeed configurations are in ds_configs/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}; give the path of a JSON file") from None

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise UserError(f"{path}: the key '{name}' stands twice in one object; keep one of them")
            seen[name] = value
        return seen

    def no_constant(word: str) -> None:
        raise UserError(f"{path}: {word} is not a JSON number; write a finite number")

    try:
        config = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}; "
            "JSON allows no comments and no trailing commas"
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds {type(config).__name__}, not a JSON object; write {{...}}")
    return config
