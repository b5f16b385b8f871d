"""From a command line and a YAML file to a RunConfig."""

import argparse
import copy
import dataclasses
import math
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from jsonargparse import Namespace
from jsonargparse._actions import _ActionConfigLoad

from genesis_ds.config import ARITHMETIC_SEQ_LEN, LENGTHS, PATHS, RunConfig
from genesis_ds.config.help import RUN_EXAMPLES, add_examples, show
from genesis_ds.config.parser import Parser, lists_of_text, take_lists_as_text
from genesis_ds.config.presets import preset
from genesis_ds.errors import UserError, nearest, shown
from genesis_ds.shipped import SHIPPED, find_shipped
from genesis_ds.tasks.registry import TASKS
from genesis_ds.user_files import MOST_DIGITS, YamlFile, expanded, load_yaml

_RUN, _DS_CONFIG = "launch/runs/quickstart.yaml", "ds_configs/zero3_offload.json"
DEFAULT_RUN = (SHIPPED / _RUN).resolve()
DEFAULT_DS_CONFIG = (SHIPPED / _DS_CONFIG).resolve()
ARITHMETIC_RUN = {"batch": {"seq_len": ARITHMETIC_SEQ_LEN}, "tasks": {"lm": 1.0}}
"""Values of a run of arithmetic that it need not give."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command that takes a run."""

    run: RunConfig
    run_file: str
    ds_config_file: str
    options: argparse.Namespace
    """The command's own flags, which are no part of a run."""
    values: "_GivenValues"

    @property
    def source(self) -> str:
        """The run's file, and that there are flags besides, for messages."""
        return self.values.source

    @property
    def given(self) -> dict[str, Any]:
        """What the run's file and the flags say, as one YAML would."""
        return self.values.merged

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Name, in a UserError that begins with a key that the run gives, the file and the line that give it."""
        try:
            yield
        except UserError as error:
            if self.values.gives(str(error).partition(":")[0]):
                raise self.values.located(error) from error
            raise


class OwnFlags(argparse.ArgumentParser):
    """The flags of a command besides the run's fields: --config, --ds_config, and what the command adds."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--config", metavar="RUN.yaml", help=f"the run's YAML (default: the shipped {_RUN})")
        about = f"the DeepSpeed configuration (default: the shipped {_DS_CONFIG})"
        self.add_argument("--ds_config", metavar="DS.json", help=about)
        self.add_argument("--local_rank")  # the deepspeed launcher passes it; the environment says the same

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse_arguments(argv: Sequence[str], own: OwnFlags, prog: str, about: str) -> Arguments:
    """Return a command's arguments. Raises UserError, with the nearest valid name, for a wrong one."""
    parser = run_parser(own, prog, about)
    known, rest = own.parse_known_args(argv)
    for name, value in vars(known).items():
        if value == "":
            raise UserError(f"--{name}: is empty; is a variable unset?")
    _check_digits(rest)
    flags = _as_dict(parser.parse_args(rest, defaults=False))
    run_file = str(DEFAULT_RUN) if known.config is None else _found(known.config, "--config")
    ds_config_file = str(DEFAULT_DS_CONFIG) if known.ds_config is None else _found(known.ds_config, "--ds_config")
    if run_file.lower().endswith(".toml"):
        yaml = shlex.quote(f"{Path(run_file).stem}.yaml")
        raise UserError(
            f"--config: {run_file}: a run is a YAML, and this a TOML, as the earlier Genesis Arbiter code has them; "
            f"convert it: genesis-ds config convert {shlex.quote(run_file)} --output {yaml}"
        )
    given = load_yaml(run_file, "--config", "see launch/runs/ for the shipped runs")
    located = _GivenValues(given, flags)
    _check_keys(given.values, RunConfig, given)
    _check_tasks(given, flags)
    try:
        config = _run(parser, located.merged)
    except UserError as error:
        raise located.located(error) from error
    return Arguments(config, run_file, ds_config_file, known, located)


def run_of(values: dict[str, Any]) -> RunConfig:
    """Return the run that plain data say, as a YAML would. Raises UserError that begins with the key."""
    return _run(run_parser(OwnFlags(), "genesis-ds train", ""), values)


def _run(parser: Parser, values: dict[str, Any]) -> RunConfig:
    run = parser.instantiate(parser.parse_object(_completed(copy.deepcopy(values), lists_of_text(parser))))
    return RunConfig(**{field.name: run[field.name] for field in dataclasses.fields(RunConfig)})


@dataclass(frozen=True)
class _GivenValues:
    """Where a run's values come from."""

    file: YamlFile
    flags: dict[str, Any]

    @property
    def source(self) -> str:
        """The file, and that there are flags besides."""
        return self.file.path + " with the flags given" * bool(self.flags)

    @property
    def merged(self) -> dict[str, Any]:
        """The file's values under those of the flags; a length among these takes the place of the file's."""
        values = self.file.values
        if any(self.flags.get(length) is not None for length in LENGTHS):
            values = {key: value for key, value in values.items() if key not in LENGTHS}
        return merge(values, self.flags)

    def gives(self, key: str) -> bool:
        """Return whether a dotted key is in the file or among the flags."""
        return key in self.file.lines or any(f"{leaf}.".startswith(f"{key}.") for leaf, _ in leaves(self.flags))

    def located(self, error: UserError) -> UserError:
        """Return the error with the file, and the line of the key that it begins with."""
        key = str(error).partition(":")[0]
        in_file = key in self.file.lines and key not in dict(leaves(self.flags))
        where = self.file.where(key) if in_file else self.source
        return UserError(f"{where}: {error}")


def _found(path: str, flag: str) -> str:
    """Return the user's file of a path, or the shipped one where they have none; the main rank says that it is this."""
    shipped = find_shipped(expanded(path, flag))
    if shipped is None:
        return path
    if os.environ.get("RANK", "0") == "0":
        print(f"{flag}: {shown(path)} is not in this directory; reading the shipped {shipped}", file=sys.stderr)
    return str(shipped)


def run_parser(own: OwnFlags, prog: str, about: str) -> Parser:
    """Return the parser of a command that takes a run.

    It parses the run's fields. The command's own flags are there for --help and for hints; `own` parses them before.
    """
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--config RUN.yaml] [--ds_config DS.json] [OPTIONS] [--FIELD VALUE ...]",
        description=f"{about} The options of the command come first, then the fields of the run: a flag overrides the "
        "run's YAML, which overrides the default shown here.",
    )
    for action in own._actions:
        if action.help:
            show(parser, action)
    if prog in RUN_EXAMPLES:  # a script that measures has none
        add_examples(parser, RUN_EXAMPLES[prog])
    parser.add_class_arguments(RunConfig)
    take_lists_as_text(parser)
    for action in parser._actions:
        if isinstance(action, _ActionConfigLoad):
            action.help = argparse.SUPPRESS  # --model FILE: what --config is for
        if action.dest == "tasks":
            known = "; ".join(f"--tasks.{name} ({task.weight:g}): {task.about}" for name, task in TASKS.items())
            action.help = f"{action.help} {known}"
    return parser


def _completed(merged: dict[str, Any], lists: Collection[str]) -> dict[str, Any]:
    """Return what was given with what it stands for: a preset's shape, a home directory, a batch of arithmetic."""
    for key, value in leaves(merged):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}: {value} is not a finite number; give one that is")
        if key == "name":
            expanded(f"./{value}", key)  # the file system must be able to have it
        if key in {*PATHS, *lists}:
            section, _, name = key.rpartition(".")
            (merged[section] if section else merged)[name] = _value_of(key, value, key in lists)
    if (name := merged.get("model", {}).get("preset")) is not None:
        merged["model"] = preset(str(name), merged["model"]) | merged["model"]
    if "tasks" in merged:
        merged["tasks"] = {task: weight for task, weight in merged["tasks"].items() if weight is not None}
    if merged.get("arithmetic", {}).get("modulus"):
        merged = merge(ARITHMETIC_RUN, merged)
    return merged


def _value_of(key: str, value: Any, is_list: bool) -> Any:
    """Return the value of a key, of which a list may be given as its one path, or as its parts between commas."""
    if is_list and isinstance(value, str):
        parts = [value] if key in PATHS else [part.strip() for part in value.split(",")]
        if key not in PATHS and ("" in parts or parts == ["null"] or value.startswith(("[", "{"))):
            raise UserError(f"{key}: '{shown(value)}' is not a valid value; give a list, such as [a, b]")
        value = parts
    if isinstance(value, list) and key in PATHS:
        return [expanded(path, key) if isinstance(path, str) else path for path in value]
    return expanded(value, key) if isinstance(value, str) else value


def _check_digits(words: Sequence[str]) -> None:
    """Raise UserError for a number of too many digits, as in a file: it is no float, and slow to compute with."""
    for word in words:
        if re.fullmatch(rf"(?:--[\w.]+=)?[-+]?[\d_]{{{MOST_DIGITS + 1},}}", word):
            raise UserError(f"{word}: has more than {MOST_DIGITS} digits")


def _check_keys(given: dict[str, Any], cls: type, file: YamlFile, prefix: str = "") -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in given.items():
        where = file.where(prefix + key)
        if key not in fields:
            raise UserError(f"{where}: unknown key '{prefix}{key}'; {nearest(key, fields)}")
        section = fields[key].default_factory
        if isinstance(section, type) and (section is dict or dataclasses.is_dataclass(section)):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {prefix}{key} is a section of keys, not {value!r}")
            if section is not dict:
                _check_keys(value, section, file, f"{prefix}{key}.")
        elif value is None and type(None) not in get_args(fields[key].type):
            raise UserError(f"{where}: {prefix}{key} cannot be null; give a value, or leave the line out")


def _check_tasks(given: YamlFile, flags: dict[str, Any]) -> None:
    """Raise UserError for a task that is neither the registry's nor the run's own."""
    own = (name for values in (given.values, flags) for name in values.get("extensions", {}).get("tasks", {}))
    known = [*TASKS, *own]
    for name, weight in given.values.get("tasks", {}).items():
        where = given.where(f"tasks.{name}")
        if name not in known:
            raise UserError(f"{where}: unknown key 'tasks.{name}'; {nearest(name, known)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float | None):
            raise UserError(f"{where}: tasks.{name}: '{weight}' is not a valid value; give a number or null")
    for flag in (f"--tasks.{name}" for name in flags.get("tasks", {}) if name not in known):
        raise UserError(f"unknown argument {flag}; {nearest(flag, [f'--tasks.{name}' for name in known])}")


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values, which are no mappings but may be lists."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from list(leaves(value, f"{prefix}{key}."))
        else:
            yield prefix + key, value


def _as_dict(namespace: Namespace) -> dict[str, Any]:
    return dict(namespace.as_dict())


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return a YAML's values with others in their place; sections are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(base.get(key, {}), value) if isinstance(value, dict) else value
    return merged
