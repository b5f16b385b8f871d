"""How a command line and a YAML file become a RunConfig."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace

from genesis_ds.config import ARITHMETIC_SEQ_LEN, LENGTHS, RunConfig
from genesis_ds.errors import UserError, nearest
from genesis_ds.parsing import Parser
from genesis_ds.presets import preset

ROOT = Path(__file__).parents[1]
DEFAULT_RUN = ROOT / "launch/runs/quickstart.yaml"
DEFAULT_DS_CONFIG = ROOT / "ds_configs/zero3_offload.json"
ARITHMETIC_RUN = {"batch": {"seq_len": ARITHMETIC_SEQ_LEN}, "tasks": {"lm": 1.0}}
"""What a run of arithmetic need not say."""


@dataclass(frozen=True)
class Arguments:
    """What the user asked for."""

    run: RunConfig
    run_file: str
    ds_config_file: str
    options: argparse.Namespace
    """The command's own flags, which are no part of a run."""


class OwnFlags(argparse.ArgumentParser):
    """The flags of a command besides the run's fields: --config, --ds_config, and what the command adds."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--config", help="the run's YAML (default: launch/runs/quickstart.yaml)")
        self.add_argument("--ds_config", help="the DeepSpeed JSON (default: ds_configs/zero3_offload.json)")
        self.add_argument("--local_rank")  # the deepspeed launcher passes it; the environment says the same

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse_arguments(argv: Sequence[str], own: OwnFlags, prog: str, about: str) -> Arguments:
    """The arguments of a command that takes a run. Raises UserError, with the nearest valid name, for a wrong one."""
    parser = _parser(own, prog, about)
    known, rest = own.parse_known_args(argv)
    overrides = parser.parse_args(rest, defaults=False)
    run_file = known.config or str(DEFAULT_RUN)
    given = _read_yaml(run_file)
    _check_keys(given, RunConfig, run_file)
    flags = _as_dict(overrides)
    if any(length in flags for length in LENGTHS):
        given = {key: value for key, value in given.items() if key not in LENGTHS}
    merged = _merge(given, flags)
    try:
        if name := merged.get("model", {}).get("preset"):
            merged["model"] = preset(str(name)) | merged["model"]
        if merged.get("arithmetic", {}).get("modulus"):
            merged = _merge(ARITHMETIC_RUN, merged)
        run = parser.instantiate(parser.parse_object(merged))
    except UserError as error:
        raise UserError(f"{run_file}{' with the flags given' if rest else ''}: {error}") from error
    config = RunConfig(**{field.name: run[field.name] for field in dataclasses.fields(RunConfig)})
    return Arguments(config, run_file, known.ds_config or str(DEFAULT_DS_CONFIG), known)


def to_dict(run: RunConfig) -> dict[str, Any]:
    """A run as plain data, as its YAML would say it."""
    return dataclasses.asdict(run)


def _parser(own: OwnFlags, prog: str, about: str) -> Parser:
    parser = Parser(prog=prog, description=f"{about} Any field of the run given here overrides its YAML.")
    group = parser.add_argument_group("The command")  # parsed by `own` before; here for --help and for hints
    for action in own._actions:
        if action.help:
            group.add_argument(*action.option_strings, help=action.help)
    parser.add_class_arguments(RunConfig)
    return parser


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--config: cannot read {path} ({error.strerror}); see launch/runs/ for the shipped runs"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError(f"{path}: a run is a mapping of keys to values, this is a {type(loaded).__name__}")
    return loaded or {}


def _check_keys(given: dict[str, Any], cls: type, where: str, prefix: str = "") -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key '{prefix}{key}'; {nearest(str(key), fields)}")
        section = fields[key].default_factory
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {prefix}{key} is a section of keys, not {value!r}")
            _check_keys(value, section, where, f"{key}.")


def _as_dict(namespace: Namespace) -> dict[str, Any]:
    return {key: value for key, value in namespace.as_dict().items() if value is not None}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base.get(key, {}), value) if isinstance(value, dict) else value
    return merged
