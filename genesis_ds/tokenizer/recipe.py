"""What a tokenizer is trained on, and how: one YAML file, read strictly."""

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from genesis_ds.errors import UserError, nearest
from genesis_ds.shipped import find_shipped
from genesis_ds.user_files import expanded, load_yaml


@dataclass(frozen=True)
class Recipe:
    """How to train one BPE tokenizer; paths count from the working directory. Raises UserError out of range."""

    name: str
    """What the tokenizer is called in reports."""
    languages: tuple[str, ...]
    """BCP-47 codes of the texts to train on, such as en or pt-BR."""
    corpus: Path
    """The prepared corpus the texts are read from; only its train split is used."""
    output: Path
    """Where the trained model goes."""
    vocab_size: int = 8192
    """Number of ids, the four specials and 256 bytes included."""
    character_coverage: float = 0.9995
    """Share of the characters that get an id of their own, 0.98 to 1; the rest is spelled in bytes."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise UserError("languages: name at least one, such as [en]")
        if len(set(self.languages)) < len(self.languages):
            raise UserError(f"languages: one is named twice in {list(self.languages)}")
        check_sizes(self.vocab_size, self.character_coverage)


def check_sizes(vocab_size: int, character_coverage: float) -> None:
    """Raise UserError for sizes that no text can be trained with."""
    if not 260 < vocab_size < 1 << 31:
        raise UserError(f"vocab_size: {vocab_size} must be above 260 (4 specials and 256 bytes) and below 2**31")
    if not 0.98 <= character_coverage <= 1:
        raise UserError(f"character_coverage: {character_coverage} must be from 0.98 to 1")


def load_recipe(path: str | Path) -> Recipe:
    """Read the recipe in the YAML file at `path`. Raises UserError, naming file and key, for what does not fit."""
    keys = [field.name for field in fields(Recipe)]
    given = load_yaml(find_shipped(expanded(str(path))) or path, remedy="see tokenizers/README.md")
    for key in given.values:
        if key not in keys:
            raise UserError(f"{given.where(key)}: unknown key '{key}'; {nearest(key, keys)}")
    missing = [field.name for field in fields(Recipe) if field.default is MISSING and field.name not in given.values]
    if missing:
        raise UserError(f"{path}: missing key{'s' * (len(missing) > 1)}: {', '.join(missing)}")
    try:
        recipe = Recipe(**{key: _READERS[key](key, value) for key, value in given.values.items()})
        if os.path.realpath(recipe.output) == os.path.realpath(expanded(str(path))):
            raise UserError("output: is this recipe; name the model's file, such as tokenizers/NAME/tokenizer.model")
        return recipe
    except UserError as error:
        raise UserError(f"{given.where(str(error).partition(':')[0])}: {error}") from None


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}: must be text, got {value!r} (quote it if YAML reads it as something else)")
    return value


def _path(key: str, value: object) -> Path:
    return Path(expanded(_text(key, value), key))


def _languages(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(f"{key}: must be a list such as [en, es], got {value!r}")
    return tuple(_text(key, language) for language in value)


def _integer(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{key}: must be a whole number, got {value!r}")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key}: must be a number, got {value!r}")
    return float(value)


_READERS: dict[str, Callable[[str, object], Any]] = {
    "name": _text,
    "languages": _languages,
    "corpus": _path,
    "output": _path,
    "vocab_size": _integer,
    "character_coverage": _number,
}
