"""Checkpoints that the code of commit 18f8236 wrote train on as they did under that code.

tests/data/before_rebuild/NAME is a run's directory with one checkpoint, the whole metrics.jsonl, and in run.json the
command, but for the paths of the data and of the runs. It ran on one CPU thread. `export` is made of that of `text`.
optim/lr is not compared: that code read it after the schedule's step. Nor is what cross-references and paraphrases
are judged by: that code looked for them among whole books, and among 10 verses.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from genesis_ds.checkpoint.command import prune_directory, table, verify
from genesis_ds.checkpoint.load.sources import open_model

STORED = Path(__file__).parents[1] / "data/before_rebuild"
OF_THE_MACHINE = ("perf/", "memory/", "optim/lr")
JUDGED_OTHERWISE = re.compile(r"(val/val_\w+|grokking)/(cross_reference|paraphrase)/")
LEVEL = "trajectory/gradient_level"


def copied(name, tmp_path):
    """The run's directory as the code of before left it."""
    return Path(shutil.copytree(STORED / name, tmp_path / "runs" / name))


def command(run):
    """The arguments that the run was started with, how many ranks it had, and the step of its checkpoint."""
    started = json.loads((run / "run.json").read_text())
    arguments = [word for pair in started["arguments"].items() for word in pair]
    return arguments, 2 if "torchrun" in started["launcher"] else 1, started["step"]


def second_half(run, step):
    """Step -> record, of the steps after the checkpoint, none of which has two."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    after = [record for record in records if record["global_step"] > step]
    by_step = {record["global_step"]: record for record in after}
    assert len(by_step) == len(after)
    return by_step


def announced(records):
    """What hooks say only if they know what was before."""
    events = {
        (step, curve, event["kind"])
        for step, record in records.items()
        for curve, found in record.get("events", {}).items()
        for event in found
    }
    return events | {(step, LEVEL) for step, record in records.items() if LEVEL in record}


def assert_trained_on(done, run, stored, step):
    """The second half of a resumed run is the one that is stored. Returns what was announced in it."""
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"step {step}, " in done.stdout
    expected, found = second_half(stored, step), second_half(run, step)
    assert found.keys() == expected.keys()
    for number, record in expected.items():
        measured = {
            name: value
            for name, value in record.items()
            if isinstance(value, int | float)
            and not name.startswith(OF_THE_MACHINE)
            and not JUDGED_OTHERWISE.match(name)
        }
        again = {name: found[number].get(name) for name in measured}
        assert again == pytest.approx(measured, rel=1e-4), f"step {number}"
    assert announced(found) == announced(expected)
    return announced(expected)


def test_a_run_of_four_tasks_trains_on_in_its_directory(train_py, tmp_path):
    run = copied("text", tmp_path)
    arguments, ranks, step = command(run)
    done = train_py(*arguments, ranks=ranks)
    said = assert_trained_on(done, run, STORED / "text", step)
    assert said == {(7, LEVEL)}, "the gradient was outside its range when the checkpoint was made"


def test_two_ranks_under_zero3_with_grokfast_train_on_from_a_path(train_py, tmp_path):
    run = copied("two_ranks", tmp_path / "elsewhere")
    arguments, ranks, step = command(run)
    done = train_py(*arguments, "--resume", run, ranks=ranks)
    assert_trained_on(done, tmp_path / "runs/two_ranks", run, step)


def test_a_run_of_arithmetic_trains_on_and_has_not_forgotten_what_it_memorised(train_arithmetic, tmp_path):
    run = copied("arithmetic", tmp_path)
    arguments, _, step = command(run)
    done = train_arithmetic(*arguments)
    said = assert_trained_on(done, run, STORED / "arithmetic", step)
    assert said == {(56, "lm/arithmetic", "plateau")}


def test_an_export_loads_and_is_its_checkpoints_model():
    exported = open_model(STORED / "export").decoder()
    [checkpoint] = (STORED / "text/checkpoints").iterdir()
    tokens = torch.arange(256).view(4, 64)
    assert torch.equal(exported(tokens), open_model(checkpoint).decoder()(tokens))
    for path in (STORED / "export", checkpoint):
        assert open_model(path).tasks == ["coherence", "cross_reference", "paraphrase"]


@pytest.mark.parametrize("name", ["text", "two_ranks", "arithmetic"])
def test_the_checkpoint_commands_read_them(tmp_path, name):
    run = copied(name, tmp_path)
    [checkpoint] = (run / "checkpoints").iterdir()
    assert verify(str(run)) == ([f"{checkpoint}: good"], True)
    assert table(str(run))[1].startswith(checkpoint.name)
    assert prune_directory(str(run), keep_last=None) == []
