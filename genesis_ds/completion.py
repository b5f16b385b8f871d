"""The script by which a shell completes `genesis-ds`: shtab's, from the parsers of all commands."""

import argparse
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import shtab

from genesis_ds.bench import command as bench
from genesis_ds.config.help import type_of
from genesis_ds.config.parse import run_parser
from genesis_ds.config.parser import Parser
from genesis_ds.hosts.command import flags as doctor_flags
from genesis_ds.memory.answers.command import flags as memory_flags
from genesis_ds.training import session
from genesis_ds.tuning.command import flags as tune_flags

FILES = {"config", "ds_config", "hostfile", "path", "recipe", "curves", "plot", "json", "tokenizer", "tokenizer.path"}
FOLDERS = {"directory", "source", "output", "corpus", "output_dir", "data.corpus", "data.token_sets"}
"""Arguments whose values are files and folders."""


def script(parsers: Mapping[str, Parser], shell: str) -> str:
    """Return the script for a shell. parsers: command -> its parser, for the commands that take no run."""
    of_a_run = {"train": session.flags(), "doctor": doctor_flags(), "memory": memory_flags()}
    of_a_run |= {"bench": bench.flags(), "tune": tune_flags()}
    found = {name: run_parser(own, f"genesis-ds {name}", "") for name, own in of_a_run.items()}
    root = argparse.ArgumentParser(prog="genesis-ds")
    root.add_argument("--version", action="store_true", help="show the version")
    choices = root.add_subparsers()
    groups: dict[str, Any] = {}
    for name, parser in {**found, **parsers}.items():
        *above, command = name.split()
        for group in above:
            if group not in groups:
                groups[group] = choices.add_parser(group, help=group).add_subparsers()
        siblings = groups[above[0]] if above else choices
        leaf = siblings.add_parser(command, help=parser.description)
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                _add(leaf, action)
    return str(shtab.complete(root, shell))


def _add(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Add an argument of jsonargparse's as one of argparse's, with the values that it may have."""
    hint = type_of(action)
    literals = [get_args(kind) for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    given: dict[str, Any] = {"help": (action.help or "").replace("%", "%%")}
    if action.nargs == 0:
        given["action"] = "store_true"
    elif hint is bool:
        given["choices"] = ("true", "false")
    elif literals:
        given["choices"] = literals[0]
    added = parser.add_argument(*(action.option_strings or [action.dest]), **given)
    if action.dest in FILES | FOLDERS:
        added.complete = shtab.FILE if action.dest in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
