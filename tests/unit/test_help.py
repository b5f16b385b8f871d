"""What --help shows, of every command, and the map that `genesis-ds` alone shows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_ds import __version__
from genesis_ds.bench import command as bench
from genesis_ds.cli import COMMANDS, MAP, OF_A_RUN, main, parser_of
from genesis_ds.config.help import RUN_EXAMPLES
from genesis_ds.config.parse import parse_arguments
from genesis_ds.hosts.command import flags as doctor_flags
from genesis_ds.memory.answers.command import flags as memory_flags
from genesis_ds.training import session
from genesis_ds.tuning.command import flags as tune_flags

ROOT = Path(__file__).parents[2]
OWN_FLAGS = {"train": session.flags, "doctor": doctor_flags, "memory": memory_flags}
OWN_FLAGS |= {"bench": bench.flags, "tune": tune_flags}


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def shown(name):
        with pytest.raises(SystemExit) as ended:
            # the whole of `train` would replace pytest's streams
            session.train_arguments(["--help"]) if name == "train" else main([*name.split(), "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_it_shows_every_command_in_a_line_under_what_it_is_for(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for title, commands in MAP.items():
        after = lines[lines.index(title) + 1 :]
        assert [line[:24].strip() for line in after[: len(commands)]] == [*commands]


def test_a_group_alone_shows_its_commands(capsys):
    assert main(["tokenizer"]) == 0
    names = [line[:24].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert names == ["tokenizer train", "tokenizer inspect"]


def test_the_version_is_known(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genesis_ds {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_one_default_for_a_flag_and_no_null(help_of, name):
    shown = " ".join(help_of(name).split())
    assert shown.startswith(f"usage: genesis-ds {name}")
    assert "null)" not in shown
    assert not re.search(r"\(default[^()]*\) \(default", shown)


@pytest.mark.parametrize("name", sorted(OF_A_RUN))
def test_own_flags_come_before_the_examples_and_these_before_the_run(help_of, name):
    shown = help_of(name)
    before_examples = shown[: shown.index("\nexamples:\n")]
    assert shown.index("\nexamples:\n") < shown.index("\nOne training run:\n")
    for action in OWN_FLAGS[name]()._actions:
        if action.help:
            flag = action.option_strings[0]
            takes_a_value = re.search(rf"^  {flag} [^ ]", before_examples, re.MULTILINE) is not None
            assert takes_a_value == (action.nargs != 0), flag


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - OF_A_RUN))
def test_the_examples_of_a_command_are_command_lines_of_it(help_of, name):
    examples = help_of(name).partition("\nexamples:\n")[2].split("\n")
    given = [shlex.split(line.partition(" > ")[0]) for line in examples if line.strip()]
    assert given
    for words in given:
        start = ["genesis-ds", *name.split()]
        assert words[: len(start)] == start
        parser_of(name).parse_args(words[len(start) :])


@pytest.mark.parametrize("name", sorted(OF_A_RUN))
def test_the_examples_of_a_command_of_a_run_are_command_lines_of_it(name, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    monkeypatch.chdir(tmp_path)
    for line in RUN_EXAMPLES[f"genesis-ds {name}"]:
        words = shlex.split(line.partition("    (")[0])
        parse_arguments(words[words.index(name) + 1 :], OWN_FLAGS[name](), f"genesis-ds {name}", "")


def test_a_users_file_is_read_first_and_the_shipped_one_second(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "launch/runs/deep_50m.yaml", "--ds_config", "ds_configs/zero2.json"]
    assert session.train_arguments(words).run.name == "deep_50m"
    assert session.train_arguments(words).ds_config_file == str(ROOT / "ds_configs/zero2.json")
    assert "launch/runs/deep_50m.yaml is not in this directory; reading the shipped" in capsys.readouterr().err
    (tmp_path / "launch/runs").mkdir(parents=True)
    (tmp_path / "launch/runs/deep_50m.yaml").write_text("name: mine\n")
    assert session.train_arguments(words[:2]).run.name == "mine"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", ["../ds_configs/zero2.json", "ds_configs", "__init__.py"])
def test_what_is_not_shipped_is_not_found_among_it(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    assert main(["memory", "--ds_config", path]) == 2
    assert path in capsys.readouterr().err


def test_deepspeed_may_put_its_rank_before_the_command(capsys):
    assert main(["--local_rank=0", "presets"]) == 0
    assert "frontier_1b" in capsys.readouterr().out


def test_bash_completes_commands_flags_and_values():
    pytest.importorskip("shtab")
    script = subprocess.run(
        [sys.executable, "-m", "genesis_ds", "completion", "bash"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    ask = "\n".join(
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _shtab_genesis_ds; "
        'echo "${COMPREPLY[@]}"'
        for words in ("genesis-ds cor", "genesis-ds corpus syn", "genesis-ds train --model.n_l", "genesis-ds build ''")
    )
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "corpus",
        "synthetic",
        "--model.n_layers",
        "cpu_adam bf16_adam async_io pin_memory",
    ]
