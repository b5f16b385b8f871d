"""How --help looks: what each flag takes, its true default, examples at the end."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

_METAVARS = {"int": "N", "float": "X"}
"""Name of a type -> what stands for its values."""
RUN_EXAMPLES = {
    "genesis-ds train": (
        "genesis-ds train --data.corpus corpora/synthetic --max_steps 100",
        "genesis-ds train --config launch/runs/deep_50m.yaml --ds_config ds_configs/zero2.json --max_hours 8",
        "genesis-ds train --config mine.yaml --print_config",
        "deepspeed --module genesis_ds train --config mine.yaml    (every GPU of the host)",
        "torchrun --nproc_per_node 2 -m genesis_ds train --config mine.yaml",
    ),
    "genesis-ds doctor": (
        "genesis-ds doctor",
        "genesis-ds doctor --config launch/runs/deep_50m.yaml --ds_config ds_configs/zero2_offload.json",
        "genesis-ds doctor --hostfile launch/hostfile --json",
    ),
    "genesis-ds memory": (
        "genesis-ds memory",
        "genesis-ds memory --config launch/runs/frontier_1b.yaml --hardware rtx4070",
        "genesis-ds memory --vram 12GiB --ram 64GiB --fit layers --ds_config ds_configs/zero2_offload.json",
        "genesis-ds memory --hardware h100 --table",
    ),
    "genesis-ds bench": (
        "genesis-ds bench --steps 10",
        "genesis-ds bench --config launch/runs/deep_50m.yaml --max_seconds 60 --json bench.json",
        "genesis-ds bench --against plain --max_seconds 10",
        "deepspeed --module genesis_ds bench --config mine.yaml    (every GPU of the host)",
    ),
    "genesis-ds tune": (
        "genesis-ds tune --config mine.yaml --limit 20",
        "genesis-ds tune --config launch/runs/deep_50m.yaml --hours 72 --tokens 3e10",
    ),
}
"""Command that takes a run -> command lines of it."""


class HelpFormatter(DefaultHelpFormatter):
    """Shows what a flag takes and its default; the types are in what it takes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("None:", "null, the default:")
        default = action.default
        if action.nargs == 0 or not action.option_strings or default in (None, {}, [], (), "", argparse.SUPPRESS):
            return text
        shown = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
        return f"{text} (default: {shown})"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """Return N for whole numbers, X for others, and the last word of the flag for the rest."""
        hint = type_of(action)
        if get_origin(hint) is dict:
            return "{KEY: VALUE, ...}"
        names = {getattr(kind, "__name__", "") for kind in (hint, *get_args(hint))}
        if names >= {"int", "str"}:
            return 'N|"N epochs"'
        found = [metavar for name, metavar in _METAVARS.items() if name in names]
        return found[0] if found else action.dest.split(".")[-1].upper()

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Keep the lines of a text that has some."""
        return textwrap.indent(text, indent) if "\n" in text else super()._fill_text(text, width, indent)


def type_of(action: argparse.Action) -> Any:
    """Return the type of an argument's values. jsonargparse has no public way to ask for it."""
    return getattr(action, "_typehint", action.type)


def add_examples(parser: argparse.ArgumentParser, commands: Sequence[str]) -> None:
    """Let --help show command lines here: after the flags that are there, before those that are added later."""
    parser.add_argument_group("examples", "\n".join([*commands, ""]))


def show(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Add to a parser, for its --help alone, a flag that another one parses."""
    given: dict[str, Any] = {"help": action.help, "default": action.default}
    if action.nargs == 0:
        given["action"] = "store_true"
    else:
        given |= {"type": action.type, "metavar": action.metavar}
    parser.add_argument(*action.option_strings, **given)
