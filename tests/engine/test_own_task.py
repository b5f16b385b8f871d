"""A task of a user's own, in one module that `extensions.tasks` names, is trained, judged, saved and resumed."""

import re
import sys
from pathlib import Path

import pytest
from test_train_command import losses, records

from genesis_ds.checkpoint.load.sources import open_model

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
OWN = ("--extensions.tasks.reversal", "toy_task:Reversal", "--tasks.lm", 1, "--tasks.reversal", 1)


@pytest.fixture
def train(train_py):
    """Start a run in the directory of the examples, which is where its task is imported from."""

    def start(name, *arguments):
        done = train_py("--name", name, *OWN, *arguments, cwd=EXAMPLES)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return start


def test_an_own_task_trains_is_judged_saved_and_resumed_bit_for_bit(train, train_py, tmp_path, monkeypatch):
    whole = train("whole", "--checkpoint.weights_per_decade", 1)
    train("parts", "--max_steps", 2)
    resumed = train("parts")
    assert "resumed" in resumed
    assert "reversal 1 of 2 slots" in whole
    of_whole, of_parts = (records(tmp_path / "runs" / name) for name in ("whole", "parts"))
    losses_of_whole = losses(tmp_path / "runs/whole")
    assert [losses(tmp_path / "runs/parts")[step] for step in (3, 4)] == [losses_of_whole[step] for step in (3, 4)]
    last = of_whole[-1]
    for name in ("train/sequences/reversal", "val/val_book/reversal/accuracy", "grokking/reversal/all/val_loss"):
        assert of_parts[-1][name] == last[name], name
    assert last["val/val_book/reversal/accuracy/chance"] == 0.5
    assert any("train/accuracy/reversal/reversed" in record for record in of_whole)
    assert re.search(r"reversal +accuracy ", whole)

    another = train_py("--name", "parts", "--max_steps", 6, "--tasks.lm", 1, cwd=EXAMPLES)
    assert another.returncode == 2
    assert "extensions.tasks.reversal: this run has a head for the task reversal" in another.stdout

    monkeypatch.chdir(EXAMPLES)
    monkeypatch.delitem(sys.modules, "toy_task", raising=False)
    for stored in ("checkpoints/step-00000004", "checkpoints/weights/step-00000004.safetensors"):
        assert open_model(tmp_path / "runs/whole" / stored, None, trust=False).tasks == ["reversal"]
    assert "toy_task" not in sys.modules, "only a run's own YAML and flags are imported from"
