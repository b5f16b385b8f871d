"""What becomes of a key."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genesis_ds.config.convert.earlier_toml import EarlierToml, Key


@dataclass(frozen=True)
class Outcome:
    """What becomes of a key: fields of a run, flags of generate, nothing that would be missed, or nothing at all."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Dotted field of a run -> its value."""
    note: str = ""
    """What differs, or why nothing becomes of it."""
    flags: tuple[str, ...] = ()
    """Words for the command line of genesis-ds generate."""
    is_lost: bool = False
    """Whether what the key did has no counterpart."""

    def __str__(self) -> str:
        if self.is_lost:
            return f"no counterpart: {self.note}"
        if not self.fields and not self.flags:
            return f"nothing to do: {self.note}"
        said = ", ".join(f"{key}: {_plain(value)}" for key, value in self.fields.items()) or " ".join(self.flags)
        return f"{said} ({self.note})" if self.note else said


Rule = Callable[[Key, EarlierToml], Outcome]


def nothing(why: str) -> Rule:
    """Return the rule of a key that genesis_ds does without: it does the same unasked."""
    return lambda key, toml: Outcome(note=why)


def lost(why: str) -> Rule:
    """Return the rule of a key that has no counterpart."""
    return lambda key, toml: Outcome(note=why, is_lost=True)


def becomes(name: str, note: str = "") -> Rule:
    """Return the rule of a key whose value a field of a run takes as it is."""
    return lambda key, toml: Outcome({name: key.value}, note)


def by_value(choices: Mapping[Any, Rule], otherwise: Rule) -> Rule:
    """Return the rule of a key that has one for each of its values."""

    def choose(key: Key, toml: EarlierToml) -> Outcome:
        known = isinstance(key.value, str | bool | int) and key.value in choices
        return (choices[key.value] if known else otherwise)(key, toml)

    return choose


def fixed(name: str, value: Any, note: str = "") -> Rule:
    """Return the rule by which a field of a run gets a value, whatever the key's."""
    return lambda key, toml: Outcome({name: value}, note)


def flag(name: str) -> Rule:
    """Return the rule of a key that is a flag of genesis-ds generate."""
    return lambda key, toml: Outcome(flags=(name, shlex.quote(_plain(key.value))))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
