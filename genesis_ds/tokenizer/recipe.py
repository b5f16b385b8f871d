"""What a tokenizer is trained on, and how: one YAML file, read strictly."""

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from genesis_ds.errors import UserError, nearest
from genesis_ds.shipped import find_shipped
from genesis_ds.user_files import expanded, load_yaml

ModelType = Literal["bpe", "char"]
"""What a piece is: a frequent run of characters (byte pairs), or one character."""
COVERAGE = 0.9995
"""The `character_coverage` of byte pairs where none is given."""


@dataclass(frozen=True)
class Recipe:
    """How to train one tokenizer; paths count from the working directory. Raises UserError out of range."""

    name: str
    """What the tokenizer is called in reports."""
    languages: tuple[str, ...]
    """BCP-47 codes of the texts to train on, such as en or pt-BR."""
    corpus: Path
    """The prepared corpus the texts are read from; only its train split is used."""
    output: Path
    """Where the trained model goes."""
    vocab_size: int = 8192
    """Number of ids, the four specials and 256 bytes included. char: the most that there may be."""
    character_coverage: float | None = None
    """bpe: share of the characters that get an id of their own, 0.98 to 1 (None: COVERAGE); the rest is spelled in
    bytes. char: always None, since all of them get one, the most frequent first, as long as vocab_size has room."""
    model_type: ModelType = "bpe"

    def __post_init__(self) -> None:
        if not self.languages:
            raise UserError("languages: name at least one, such as [en]")
        if len(set(self.languages)) < len(self.languages):
            raise UserError(f"languages: one is named twice in {list(self.languages)}")
        check_settings(self.model_type, self.vocab_size, self.character_coverage)


def check_settings(model_type: ModelType, vocab_size: int, character_coverage: float | None) -> float:
    """Return the coverage to train with. Raises UserError for settings that no text can be trained with."""
    if not 260 < vocab_size < 1 << 31:
        raise UserError(f"vocab_size: {vocab_size} must be above 260 (4 specials and 256 bytes) and below 2**31")
    if model_type == "char":
        if character_coverage is not None:
            raise UserError(
                "character_coverage: is of model_type bpe alone; remove it, and let vocab_size limit the characters"
            )
        return 1.0
    coverage = COVERAGE if character_coverage is None else character_coverage
    if not 0.98 <= coverage <= 1:
        raise UserError(f"character_coverage: {coverage} must be from 0.98 to 1")
    return coverage


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


def _model_type(key: str, value: object) -> ModelType:
    for known in get_args(ModelType):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise UserError(f"{key}: unknown '{value}'; {nearest(str(value), get_args(ModelType))}")


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
    "model_type": _model_type,
}
