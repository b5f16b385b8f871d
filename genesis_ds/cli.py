"""The `genesis-ds` command: the map of all commands, and how one is found and run.

Heavy imports stay inside the functions, so that --help answers at once.
"""

import dataclasses
import inspect
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from typing import Any, Literal

from genesis_ds import __version__
from genesis_ds.commands import many_runs, results, text, training, using
from genesis_ds.config.help import add_examples
from genesis_ds.config.parser import Parser, arranged, take_words
from genesis_ds.environment import print_anything
from genesis_ds.errors import OF_A_PATH, UserError, nearest, of_path, shown
from genesis_ds.user_files import expanded


def train(argv: list[str]) -> int:
    """Train a run, or go on with it; alone, or on every rank that deepspeed or torchrun starts."""
    from genesis_ds.training.session import main

    return main(argv)


def memory(argv: list[str]) -> int:
    """Plan the memory of a run on a machine: what fits, what binds, what to change. Exit code 1: it does not fit."""
    from genesis_ds.checkpoint.load.teacher import teacher_shapes
    from genesis_ds.hooks.load import require_parts
    from genesis_ds.memory.answers.command import main

    return main(argv, teacher_shapes, require_parts)


def doctor(argv: list[str]) -> int:
    """Say whether a run can start on this machine, or on the hosts of a hostfile, and what mends it.

    Exit code 1: it cannot.
    """
    from genesis_ds.hosts.command import main

    return main(argv)


def bench(argv: list[str]) -> int:
    """Measure speed, utilisation and memory with the real engine on synthetic tokens."""
    from genesis_ds.bench.command import main

    return main(argv)


def tune(argv: list[str]) -> int:
    """Find the fastest settings for a run on this machine by trying them, or the largest model for a given time."""
    from genesis_ds.tuning.command import main

    return main(argv)


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script by which a shell completes the commands and their flags.

    Args:
        shell: The shell that is to read it.

    Examples:
        genesis-ds completion bash > ~/.local/share/bash-completion/completions/genesis-ds
        genesis-ds completion zsh > ~/.zfunc/_genesis-ds
    """
    from genesis_ds.completion import script

    print(script({name: parser_of(name) for name in COMMANDS if name not in OF_A_RUN}, shell))


MAP: dict[str, dict[str, Callable[..., int | None]]] = {
    "Text": {
        "corpus fetch": text.corpus_fetch,
        "corpus import": text.corpus_import,
        "corpus synthetic": text.corpus_synthetic,
        "corpus inspect": text.corpus_inspect,
        "tokenizer train": text.tokenizer_train,
        "tokenizer inspect": text.tokenizer_inspect,
    },
    "Training": {
        "presets": training.presets,
        "config convert": training.config_convert,
        "doctor": doctor,
        "memory": memory,
        "train": train,
        "bench": bench,
        "sweep": many_runs.sweep,
        "tune": tune,
        "build": training.build,
    },
    "Results": {
        "report": results.report,
        "runs": many_runs.runs,
        "compare": many_runs.compare,
        "grokking": results.grokking,
        "checkpoint list": results.checkpoint_list,
        "checkpoint verify": results.checkpoint_verify,
        "checkpoint prune": results.checkpoint_prune,
        "checkpoint consolidate": results.checkpoint_consolidate,
        "checkpoint export": results.checkpoint_export,
        "checkpoint import": results.checkpoint_import,
    },
    "Using a model": {"generate": using.generate, "score": using.score},
    "Shell": {"completion": completion},
}
"""What a user is about -> the commands for it, as `genesis-ds` alone shows them."""
COMMANDS = {name: command for group in MAP.values() for name, command in group.items()}
OF_A_RUN = {"train", "doctor", "memory", "bench", "tune"}
"""Commands that take a run and its overrides, and read their arguments themselves."""
HELP = {"-h", "--help"}
PATHS = {"corpus", "curves", "directory", "output", "path", "plot", "recipe", "source", "tokenizer"}
PATHS |= {"directories", "file", "first", "model", "models", "pairs", "second"}
"""Arguments that are a path, or several, in every command: ~ is the home directory."""
OPTIONAL = {"directories"}
"""Positional arguments that may be left out."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done; 1 where the command says so; 2 the user's mistake, said in one line.

    All paths of a command are the user's, so an OSError of a path is the user's mistake. 141: whoever reads the output
    has closed it before the end.
    """
    argv = sys.argv[1:] if argv is None else argv
    print_anything()
    try:
        exit_code = _command(argv)
        if sys.stdout:
            sys.stdout.flush()
        return exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in OF_A_PATH:
            raise
        reason = shown(of_path(error, "standard output"))
        print(f"error: {reason}; check the path, its permissions and the free space", file=sys.stderr)
        if not error.filename:
            _drop_output()
        return 2


def _drop_output() -> None:
    """Point the standard output at /dev/null, as Python would complain at its end that it cannot be flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(argv: list[str]) -> int:
    if argv and argv[0].startswith("--local_rank="):
        argv = argv[1:]  # `deepspeed --module genesis_ds train` puts it before the command
    if argv[:1] == ["--version"]:
        print(f"genesis_ds {__version__}")
        return 0
    name = next((name for name in (" ".join(argv[:2]), *argv[:1]) if name in COMMANDS), None)
    if name is None:
        print(_map(argv))
        return 0
    argv = argv[len(name.split()) :]
    if name in OF_A_RUN:
        return COMMANDS[name](argv) or 0
    parser = parser_of(name)
    given = {
        key: _expanded(key, value) if key in PATHS else value
        for key, value in parser.parse_args(arranged(parser, argv)).as_dict().items()
    }
    flags = _flags_class(COMMANDS[name])
    return (COMMANDS[name](flags(**given)) if flags else COMMANDS[name](**given)) or 0


def _expanded(key: str, value: Any) -> Any:
    """Return the paths of an argument, one or several, with the home directory in them."""
    if isinstance(value, list):
        return [expanded(path, key) for path in value]
    return expanded(value, key) if isinstance(value, str) else value


def _flags_class(command: Callable[..., Any]) -> type | None:
    """Return the dataclass whose fields are the flags of a command; None where its own parameters are."""
    kinds = [parameter.annotation for parameter in inspect.signature(command).parameters.values()]
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def parser_of(name: str) -> Parser:
    """Return the parser of a command that takes no run."""
    about, _, rest = (inspect.getdoc(COMMANDS[name]) or "").partition("\n")
    parser = Parser(prog=f"genesis-ds {name}", description=about)
    if flags := _flags_class(COMMANDS[name]):
        parser.add_class_arguments(flags, as_group=False, as_positional=True)
    else:
        parser.add_function_arguments(COMMANDS[name], as_group=False, as_positional=True)
    take_words(parser, OPTIONAL)
    add_examples(parser, textwrap.dedent(rest.partition("Examples:\n")[2]).splitlines())
    return parser


def _map(argv: list[str]) -> str:
    """Return the commands by what they are for; of one group where it alone is given. Raises UserError for any other"""
    group, rest = (argv[0], argv[1:]) if argv and argv[0] not in HELP else ("", argv)
    below = [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
    if group and not below:
        first_words = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
        raise UserError(f"no command is named '{group}'; {nearest(group, first_words)}")
    if rest and rest[0] not in HELP:
        raise UserError(f"no command is named '{group} {rest[0]}'; {nearest(rest[0], below)}")
    lines = (
        [] if group else [f"genesis-ds {__version__}: deep, narrow decoders on small parallel corpora, by DeepSpeed"]
    )
    for title, group_of in MAP.items():
        shown = {name: command for name, command in group_of.items() if name.startswith(group)}
        lines += ["", title] if shown and not group else []
        lines += [f"  {name:<24}{_about(command)}" for name, command in shown.items()]
    return "\n".join([*lines, "", "genesis-ds COMMAND --help shows the flags of a command, and examples"])


def _about(command: Callable[..., int | None]) -> str:
    return (command.__doc__ or "").splitlines()[0].partition(". ")[0].rstrip(".")
