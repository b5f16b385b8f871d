"""Command lines, parsed by jsonargparse, with complaints of one line."""

import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from genesis_ds.errors import UserError, nearest

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """A parser whose complaints are UserErrors of one line, with the nearest valid name for an unknown flag."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        if unknown := re.search(r"unrecognized arguments: (--[^ =]+)", message):
            raise UserError(f"unknown argument {unknown[1]}; {nearest(unknown[1], self._flags())}") from ex
        raise UserError(_one_line(message)) from ex

    def _flags(self) -> list[str]:
        own = [flag for action in self._actions for flag in action.option_strings if not flag.endswith("+")]
        groups = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        below = [flag for group in groups for parser in group.values() for flag in parser._flags()]
        return own + below


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    pattern = r'^Parser key "(.+?)": Expected an? (.+?)\. Got value: (.*)$'
    line = re.sub(pattern, r"\1: '\3' is not a valid value; give \2", line)
    line = re.sub(r"<class '(\w+)'>|typing\.", r"\1", line)
    return re.sub(r"Literal\[(.+?)\]", lambda found: found[1].replace(", ", " or "), line)
