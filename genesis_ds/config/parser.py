"""Command lines, parsed by jsonargparse, with complaints of one line."""

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, _loaders_dumpers, set_parsing_settings

from genesis_ds.config.help import HelpFormatter, type_of
from genesis_ds.errors import UserError, nearest
from genesis_ds.user_files import Loader

set_parsing_settings(docstring_parse_attribute_docstrings=True)
# The values of flags are read as those of files: 2:30 is no number.
_loaders_dumpers.yaml_default_loader = Loader  # type: ignore[assignment]
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text, in quotes where YAML reads it as something else",
    "NoneType": "null",
    "list": "a list, such as [a, b]",
    "list[str]": "a list, such as [a, b]",
    "dict": "keys and values",
}
"""Name of a type -> how a message describes its values."""


class Parser(ArgumentParser):
    """A parser whose complaints are UserErrors of one line, with the nearest valid name for an unknown flag."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        defaults: dict[str, Any] = {"allow_abbrev": False, "formatter_class": HelpFormatter}
        super().__init__(*args, **(defaults | kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        if unknown := re.search(r"unrecognized arguments: (--[^ =]+)", message):
            raise UserError(f"unknown argument {unknown[1]}; {nearest(unknown[1], self._flags())}") from ex
        if unknown := re.search(r"Group '(\S+)' does not accept option '(\S+)'$", message):
            flag = f"--{unknown[1]}.{unknown[2]}"
            raise UserError(f"unknown argument {flag}; {nearest(flag, self._flags())}") from ex
        raise UserError(_one_line(message)) from ex

    def _flags(self) -> list[str]:
        own = [flag for action in self._actions for flag in action.option_strings if not flag.endswith("+")]
        groups = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        below = [flag for group in groups for parser in group.values() for flag in parser._flags()]
        return own + below


def take_words(parser: Parser, optional: Collection[str] = ()) -> None:
    """Let arguments take words as a shell has them: several texts one after another, and a flag alone for true.

    optional: names of those texts of which there may be none.
    """
    for action in parser._actions:
        kind = type_of(action)
        if kind == tuple[str, ...]:
            action._typehint, action.nargs = str, "*" if action.dest in optional else "+"  # type: ignore[attr-defined]
            action.metavar = action.dest.upper()
        elif kind is bool and action.default is False:
            action.nargs, action.const = "?", True


def take_lists_as_text(parser: Parser) -> None:
    """Let arguments that take a list of texts take one text, as it is, for whoever knows its parts."""
    for action in parser._actions:
        if type_of(action) == list[str]:
            action._typehint = list[str] | str  # type: ignore[attr-defined]


def lists_of_text(parser: Parser) -> set[str]:
    """Return the dotted names of a parser's arguments that take a list of texts or a text."""
    return {action.dest for action in parser._actions if type_of(action) == list[str] | str}


def arranged(parser: Parser, words: Sequence[str]) -> list[str]:
    """Return words as a parser of `take_words` needs them.

    A flag alone is true, whatever word follows; one that takes several texts, and is given several times, is given once
    with all, at the end.
    """
    flags = [word.partition("=")[0] for word in words]
    alone = {
        flag for action in parser._actions if action.nargs == "?" and action.const for flag in action.option_strings
    }
    takers = [action for action in parser._actions if action.nargs == "+"]
    several = {flag for action in takers for flag in action.option_strings if flags.count(flag) > 1}
    rest: list[str] = []
    found: dict[str, list[str]] = {}
    into = rest
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag in several:
            into = found.setdefault(flag, [])
            into += [value] if equals else []
        else:
            into = rest if word.startswith("--") else into
            into.append(f"{word}=true" if word in alone and following not in ("true", "false") else word)
    return [*rest, *(word for flag, values in found.items() for word in (flag, *values))]


def _one_line(message: str) -> str:
    line = re.sub(r"<class '(\w+)'>|typing\.", r"\1", " ".join(message.split()))
    line = re.sub(r"^.*Unable to load config .* - (?=Parser key )", "", line)  # what is wrong within a section's value
    union = r'^Parser key "(.+?)": Does not validate .*?Subtypes: \[(.+?)\] Errors:.* Given value: (.*)$'
    if found := re.match(union, line):
        kinds = [_WORDS.get(name, name) for name in _split(found[2])]
        return f"{found[1]}: '{found[3]}' is not a valid value; give {' or '.join(kinds)}"
    pattern = r'^Parser key "(.+?)": Expected an? (.+?)\. Got value: ?(.*)$'
    if found := re.match(pattern, line):
        line = f"{found[1]}: '{found[3]}' is not a valid value; give {_WORDS.get(found[2], found[2])}"
    if found := re.match(r"""^Parser key "(.+?)": Unable to load config '\{.*' - (.+)$""", line):
        line = f"--{found[1]}: {found[2]}"
    elif found := re.match(r'^Parser key "(.+?)": Unable to load config', line):
        line = f"--{found[1]}: is a section; give a flag of its fields, --{found[1]}.FIELD VALUE"
    return re.sub(r"Literal\[(.+?)\]", lambda found: found[1].replace(", ", " or "), line)


def _split(subtypes: str) -> list[str]:
    """Return the names of a union's types."""
    return re.findall(r"[^,\[\] ]+(?:\[[^\]]*\])?", subtypes)
