"""The transcripts of docs/migrating.md are what the commands print; a line of three dots stands for lines left out."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from genesis_ds.cli import main
from genesis_ds.config.convert.shapes import MODES, SIZES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
TRANSCRIPTS = [block.partition("\n") for block in re.findall(r"```console\n\$ (.*?)```", TEXT, re.DOTALL)]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A directory with the files of the earlier code, in which the command runs."""
    (tmp_path / "earlier").mkdir()
    shutil.copy(ROOT / "tests/data/legacy_step_file/step_100.pt", tmp_path / "earlier")
    shutil.copy(ROOT / "tests/data/legacy_toml/global.toml", tmp_path / "earlier")
    monkeypatch.chdir(tmp_path)


def without_rounding(text):
    """The text without the digits of a difference, which another machine rounds in another order."""
    return re.sub(r"\d\.\de-0\d on", "ROUNDING on", text)


@pytest.mark.usefixtures("earlier")
@pytest.mark.parametrize(("command", "_", "expected"), TRANSCRIPTS, ids=[command for command, *_ in TRANSCRIPTS])
def test_a_transcript_is_what_the_command_prints(command, _, expected, capsys):
    assert main(shlex.split(command)[1:]) == 0
    parts = [re.escape(part) for part in without_rounding(expected).split("...\n")]
    assert re.fullmatch("(?:.*\n)*".join(parts), without_rounding(capsys.readouterr().out))


def test_the_python_it_shows_runs(earlier):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {})


def test_its_table_of_modes_is_the_commands():
    for mode, shape in MODES.items():
        layers, dim, heads, width = (shape[size] for size in SIZES)
        assert re.search(rf"^\| {mode}\b.*\| {layers} x {dim} \| {heads} \| {width} \|$", TEXT, re.MULTILINE)
