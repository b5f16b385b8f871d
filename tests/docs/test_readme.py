"""The README's commands exist: each is parsed, and the files it names are there."""

import re
import shlex
from pathlib import Path

import pytest

from genesis_ds.cli import COMMANDS, main
from genesis_ds.engine.distributed import Ranks
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.session import train_arguments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMAND_LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("words", [w for w in COMMAND_LINES if "launch/train.py" in w], ids=" ".join)
def test_a_training_command_of_the_readme_parses(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = train_arguments(words[words.index("launch/train.py") + 1 :])
    n_ranks = 2 if {"torchrun", "--hostfile"} & set(words) else 1
    assert (
        resolve_ds_config(arguments, Ranks(0, 0, n_ranks)).config["train_batch_size"]
        == arguments.run.batch.global_batch_size
    )


@pytest.mark.parametrize(
    "words", [w for w in COMMAND_LINES if w[1:2] == ["memory"] and "--table" not in w], ids=" ".join
)
def test_a_memory_command_of_the_readme_finds_that_it_fits(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(words[1:]) == 0


@pytest.mark.parametrize(
    "words", [w for w in COMMAND_LINES if w[0] == "genesis-ds" and w[1] not in ("memory", "bench")], ids=" ".join
)
def test_a_genesis_ds_command_of_the_readme_exists(words):
    name = next(name for name in (" ".join(words[1:3]), words[1]) if name in COMMANDS)
    flags = {word[2:] for word in words if word.startswith("--")}
    assert flags <= set(COMMANDS[name].__annotations__)


@pytest.mark.parametrize("words", [w for w in COMMAND_LINES if w[0].startswith("./")], ids=" ".join)
def test_a_script_of_the_readme_can_be_run(words):
    assert (ROOT / words[0]).stat().st_mode & 0o100


@pytest.mark.parametrize("path", sorted(ROOT.glob("ds_configs/*.json")), ids=lambda path: path.name)
def test_the_readme_says_when_to_use_each_ds_config(path):
    assert f"| `{path.name}` |" in README
