"""What docs/using.md shows works, on a small run in the place of the quickstart's."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.stored_runs import run_on

from genesis_ds.checkpoint.models.export import export
from genesis_ds.cli import main
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus

TEXT = (Path(__file__).parents[2] / "docs/using.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
IN_ITS_PLACE = {"step-300": "step-6", "en ko": "qaa qac"}
"""What the page has of the quickstart -> what the small run has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    save_corpus(synthetic_corpus(), folder / "corpora/synthetic")
    run = run_on(folder / "corpora/synthetic", folder / "runs/quickstart")
    (folder / "exported").mkdir()
    export(run / "checkpoints/step-00000006", folder / "exported/quickstart", "safetensors")
    (folder / "mine.txt").write_text("A line.\nAnother one.\n")
    (folder / "pairs.tsv").write_text("the better text\tworse the text\n")
    return folder


def adapted(text):
    for shown, small in IN_ITS_PLACE.items():
        text = text.replace(shown, small)
    return text


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_prints_something(folder, monkeypatch, capsys, line):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"In the beginning"), encoding="utf-8"))
    words = shlex.split(adapted(line))
    assert main(words[1:]) == 0
    assert capsys.readouterr().out


def test_the_python_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(adapted(code), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "(2, 16) 4 260"
    assert len(lines) >= 4
