"""The commands that list and compare runs."""

import json
import math

import pytest
from helpers.written_runs import write_run

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.cli import main
from genesis_ds.hooks.base import StepRecord

EN, KO = (metrics.bits_per_byte("val_chapter", language) for language in ("en", "ko"))
DONE = "exit code 0\n"


def records(losses, every=10, **more):
    """An evaluation at each multiple of `every`, of two languages; ko is 1 worse than en."""
    return [StepRecord(every * n, 1000, metrics={EN: at, KO: at + 1}, **more) for n, at in enumerate(losses, 1)]


@pytest.fixture
def runs(tmp_path):
    """A directory with a run that has grokked, one that has crashed and, in a directory below, one without measures."""
    event = {"lm/en": [Event("grokked", 20, {}, "it fell")], "lm/en/copied": [Event("grokked", 10, {}, "a part")]}
    write_run(
        tmp_path / "runs/good", [*records([3.0, 2.0]), StepRecord(30, 1000, events=event, metrics={EN: 2.5})], DONE
    )
    write_run(tmp_path / "runs/bad", records([math.nan]), "Traceback\nexit code 1\n")
    write_run(tmp_path / "runs/sweeps/lr/trial-1", [], None)
    return tmp_path / "runs"


def test_every_run_is_a_row_also_those_below(runs, capsys):
    assert main(["runs", str(runs)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["name", "state", "step", "best", "grokked"]
    cells = {row.split()[0]: row.split() for row in rows}
    assert cells.keys() == {"good", "bad", "sweeps/lr/trial-1"}
    assert cells["good"][1:6] == ["done", "30/1,000", "2.500", "@20", "@20"]
    assert cells["bad"][1:5] == ["crashed", "10/1,000", "-", "-"]
    assert cells["sweeps/lr/trial-1"][1:3] == ["stopped", "0/1,000"]
    assert "\x1b" not in head


def test_as_json_every_run_is_a_line_with_null_for_what_is_not_there(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["runs", "--json"]) == 0
    found = {run["path"]: run for run in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["runs/good"]["grokked"] == {"lm/en": 20}
    assert (found["runs/good"]["best"], found["runs/good"]["best_step"]) == (2.5, 20)
    assert found["runs/bad"]["best"] is None
    assert all(run["size_bytes"] > 100 for run in found.values())


def test_a_run_whose_configuration_cannot_be_read_leaves_the_others(runs, capsys):
    (runs / "bad/config.yaml").write_text("name: [")
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    assert "bad" not in printed.out
    assert str(runs / "bad/config.yaml") in printed.err


def test_two_runs_are_compared_at_equal_steps_and_equal_tokens(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    batch = {"seq_len": 10, "global_batch_size": 1}
    write_run(tmp_path / "a", records([4.0, 3.0, 2.0, 3.0]), DONE, batch=batch)
    write_run(tmp_path / "b", records([5.0, 1.0]), DONE, batch=batch | {"global_batch_size": 3})
    assert main(["compare", *paths, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["configuration"] == {"batch.global_batch_size": ["1", "3"]}
    rows = [(row["what"], row["where"], row["first"], row["second"]) for row in told["measures"]]
    assert rows == [
        ("validation", "last, at 40 and 20", 3.5, 1.5),
        ("validation", "best, at 30 and 20", 2.5, 1.5),
        ("validation", "at step 20", 3.5, 1.5),
        ("validation", "after 400 tokens", 3.5, pytest.approx(1.5 + 4 * 2 / 3)),
        ("en val_chapter", "at step 20", 3.0, 1.0),
        ("ko val_chapter", "at step 20", 4.0, 2.0),
    ]
    assert main(["compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert "batch.global_batch_size  1  3\n" in printed
    assert "at step 20          3.500  1.500      -2.000\n" in printed


def test_nothing_stands_for_what_was_before_a_runs_first_evaluation(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a", "b")]
    write_run(tmp_path / "a", records([4.0]), DONE)
    write_run(tmp_path / "b", records([1.0], every=30), DONE)
    assert main(["compare", *paths, "--json"]) == 0
    wheres = [row["where"] for row in json.loads(capsys.readouterr().out)["measures"]]
    assert wheres == ["last, at 10 and 30", "best, at 10 and 30"]


def test_runs_that_watch_other_splits_are_compared_by_language_alone(tmp_path, capsys):
    in_book = metrics.bits_per_byte("val_book", "en")
    found = [StepRecord(10, 1000, metrics={EN: 2.0, in_book: 3.0})]
    paths = [
        str(write_run(tmp_path / name, found, DONE, grokking={"split": name})) for name in ("val_chapter", "val_book")
    ]
    assert main(["compare", *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["measures"]
    assert {(row["what"], row["difference"]) for row in rows} == {("en val_chapter", 0.0), ("en val_book", 0.0)}


def test_what_cannot_be_compared_is_said(tmp_path, capsys):
    write_run(tmp_path / "text", records([4.0]), DONE)
    loss = metrics.judged("validation", "arithmetic", "loss")
    write_run(tmp_path / "sums", [StepRecord(10, 1000, metrics={loss: 1.0})], DONE)
    assert main(["compare", str(tmp_path / "text"), str(tmp_path / "sums")]) == 0
    assert capsys.readouterr().out.endswith("no validation is known of both runs\n")


@pytest.mark.parametrize("arguments", [["runs", "ABSENT"], ["runs", "."], ["compare", ".", "ABSENT"], ["compare", "."]])
def test_bad_input_is_one_line_and_exit_code_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
