"""A TOML of the earlier Genesis Arbiter code: its placeholders filled, its tables read as that code reads them."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_ds.errors import UserError, nearest
from genesis_ds.user_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MERGED = ("logging", "parallelism", "training", "system", "evaluation", "data")
"""Tables that the earlier trainers make one of, whatever key stands in which; of two values the later table's counts.
[model], [inference], [tasks], [masking] and [checkpoint] are read apart."""
OF_FIRST = ("logging", "parallelism")
"""Tables that only the first trainer reads. It really accumulates gradients, and ties no embeddings."""
PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Key:
    """A key of the file and its value."""

    table: str
    name: str
    value: Any

    @property
    def dotted(self) -> str:
        """As a message names it."""
        return f"{self.table}.{self.name}" if self.table else self.name


@dataclass(frozen=True)
class EarlierToml:
    """The keys of a file, in its order."""

    path: str
    keys: Sequence[Key]
    lines: dict[str, int]
    """Dotted key -> the line it stands in."""

    def where(self, dotted: str) -> str:
        """Return the file, with the line of the key where it is known."""
        return f"{self.path}: line {self.lines[dotted]}" if dotted in self.lines else self.path

    def find(self, name: str, table: str | None = None) -> Key | None:
        """Return the key of a table, or the one that counts of the merged tables."""
        tables = MERGED if table is None else (table,)
        found = [key for key in self.keys if key.name == name and key.table in tables]
        return max(found, key=lambda key: tables.index(key.table), default=None)

    def get(self, name: str, table: str | None = None) -> Any:
        """Return the value of a key that `find` finds; None where it finds none."""
        return found.value if (found := self.find(name, table)) else None

    def whole(self, name: str, otherwise: int) -> int:
        """Return the whole number of a key of the merged tables. Raises UserError for another value."""
        if (key := self.find(name)) is None:
            return otherwise
        if isinstance(key.value, bool) or not isinstance(key.value, int) or key.value < 1:
            raise UserError(f"{self.where(key.dotted)}: {key.dotted}: {key.value!r} is no whole number above 0")
        return key.value

    @property
    def is_of_first_trainer(self) -> bool:
        """Whether it is a file of the first trainer, and not of the newest."""
        return any(key.table in OF_FIRST or key.name == "gradient_accumulation_steps" for key in self.keys)


def read_toml(path: str, given: Sequence[str] = ()) -> EarlierToml:
    """Read a file, with NAME=VALUE for each of its placeholders {{NAME}}.

    Raises UserError for a placeholder without a value, a value without a placeholder, and what is no TOML, by its line.
    """
    text = _filled(path, read_text(path), given)
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: too many levels of brackets; such a file has two") from None
    except ValueError as error:
        message = re.sub(r"\s+", " ", str(error))
        line = re.search(r" \(at line (\d+), column \d+\)", message)
        problem = message.replace(line[0], "") if line else message
        raise UserError(f"{path}: {f'line {line[1]}: ' if line else ''}not valid TOML: {problem}") from None
    keys = [
        Key(table if isinstance(content, dict) else "", name, value)
        for table, content in tables.items()
        for name, value in (_leaves(content) if isinstance(content, dict) else [(table, content)])
    ]
    return EarlierToml(path, keys, _lines(text))


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _filled(path: str, text: str, given: Sequence[str]) -> str:
    values = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set: '{pair}' is no NAME=VALUE; give it as in --set DIM=768")
        values[name] = value
    lines = text.split("\n")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("#"):
            for found in PLACEHOLDER.finditer(line):
                first.setdefault(found[1], number)
    if missing := [name for name in first if name not in values]:
        named = ", ".join(f"{name} (line {first[name]})" for name in missing)
        example = " ".join(f"--set {name}=..." for name in missing)
        raise UserError(f"{path}: a template, whose placeholders have no value: {named}; give {example}")
    if unused := [name for name in values if name not in first]:
        hint = nearest(unused[0], first) if first else "the file has none"
        raise UserError(f"--set: {path} has no placeholder {{{{{unused[0]}}}}}; {hint}")
    return "\n".join(PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), line) for line in lines)


def _lines(text: str) -> dict[str, int]:
    """Return dotted key -> its line, for keys that stand alone at the beginning of one."""
    table = ""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[([\w.-]+)\]", line):
            table = f"{header[1]}."
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            lines.setdefault(table + key[1], number)
    return lines
