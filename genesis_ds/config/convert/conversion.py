"""A TOML of the earlier code, converted: a row for each of its keys, the YAML, and the flags of generate."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_ds.config import RunConfig
from genesis_ds.config.convert.earlier_toml import MERGED, EarlierToml, Key
from genesis_ds.config.convert.outcome import Outcome
from genesis_ds.config.convert.rules import ALIASES, RULES, UNSAID
from genesis_ds.config.parse import run_of
from genesis_ds.errors import UserError, nearest, shown
from genesis_ds.stored import program
from genesis_ds.user_files import dump_yaml

HEADER = "# Converted by genesis-ds config convert"
"""How a converted YAML begins."""


@dataclass(frozen=True)
class Row:
    """A key of the TOML, and what becomes of it. value: None for what the TOML leaves unsaid."""

    key: str
    value: Any
    outcome: Outcome


@dataclass(frozen=True)
class Conversion:
    """What a TOML becomes."""

    toml: EarlierToml
    rows: Sequence[Row]
    run: RunConfig
    values: dict[str, Any]
    """The fields of the run that it says, as plain data in the order of a RunConfig."""

    @property
    def lost(self) -> list[Row]:
        """Rows of keys without a counterpart."""
        return [row for row in self.rows if row.outcome.is_lost]

    @property
    def flags(self) -> list[str]:
        """Words for the command line of genesis-ds generate."""
        return [word for row in self.rows for word in row.outcome.flags]

    def yaml(self) -> str:
        """Return the run as a YAML, with the keys that have no counterpart, or a note on theirs, as comments."""
        comments = [f"{HEADER}, {program()}, from {shown(self.toml.path)}"]
        comments += [
            shown(f"# {row.key} = {row.value!r}: {row.outcome}")
            for row in self.rows
            if row.outcome.is_lost or (row.value is not None and row.outcome.fields and row.outcome.note)
        ]
        return "\n".join([*comments, dump_yaml(self.values)])


def convert(toml: EarlierToml, name: str) -> Conversion:
    """Convert a TOML to a run of a name.

    Raises UserError where no key is the earlier trainers', and where the whole is no run, by the line of the TOML.
    """
    if not any(key.name in RULES.get(key.table, {}) for key in toml.keys):
        raise UserError(f"{toml.path}: has no key of the earlier Genesis Arbiter code; give one of its TOML files")
    fields: dict[str, Any] = {"name": name}
    given_by: dict[str, str] = {}
    rows = []
    for key, outcome in _outcomes(toml):
        if clash := [name for name, value in outcome.fields.items() if fields.get(name, value) != value]:
            decided = f"{clash[0]} is {fields[clash[0]]} already, by {given_by[clash[0]]}"
            outcome = Outcome(note=decided, is_lost=True)
        fields |= outcome.fields
        given_by |= dict.fromkeys(outcome.fields, key.dotted)
        rows.append(Row(key.dotted, key.value, outcome))
    for what, unsaid in UNSAID.items():
        if outcome_of_unsaid := unsaid(toml):
            fields |= outcome_of_unsaid.fields
            rows.append(Row(f"({what})", None, outcome_of_unsaid))
    values = _nested(fields)
    try:
        run = run_of(values)
    except UserError as error:
        field = str(error).partition(":")[0]
        unknown = [f"{row.key} ({row.outcome.note})" for row in rows if row.outcome.note.startswith("unknown")]
        perhaps = f"; not read, and perhaps why: {', '.join(unknown)}" if unknown else ""
        raise UserError(f"{toml.where(given_by.get(field, ''))}: as a run here: {error}{perhaps}") from error
    return Conversion(toml, rows, run, values)


def _outcomes(toml: EarlierToml) -> Iterator[tuple[Key, Outcome]]:
    for key in toml.keys:
        rules = RULES.get(key.table, {})
        if key.name not in rules:
            yield key, _unknown(key)
            continue
        deciding = (toml.find(ALIASES.get(key.name, "")) or toml.find(key.name)) if key.table in MERGED else key
        if deciding in (None, key):
            yield key, rules[key.name](key, toml)
        else:
            yield key, Outcome(note=f"{deciding.dotted} counts")


def _unknown(key: Key) -> Outcome:
    """Return what is said of a key that the earlier trainers have not, with the nearest that they have."""
    if key.table in RULES:
        what, hint = "unknown key", nearest(key.name, RULES[key.table], "none there is like it")
    else:
        what, hint = "unknown table" if key.table else "unknown key outside of a table", nearest(key.table, RULES)
    return Outcome(note=f"{what}; {hint}", is_lost=True)


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Return dotted fields as sections, in the order of a RunConfig."""
    nested: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        for dotted in (dotted for dotted in fields if dotted.partition(".")[0] == field.name):
            section, _, name = dotted.partition(".")
            if name:
                nested.setdefault(section, {})[name] = fields[dotted]
            else:
                nested[section] = fields[dotted]
    return nested
