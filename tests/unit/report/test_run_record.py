import math

import numpy as np
import pytest
from helpers.written_runs import START, write_run

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.disk import lock
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.report.run_record import Series, differences, mean, read_run

EN, KO = (metrics.bits_per_byte("val_chapter", language) for language in ("en", "ko"))
LOG = "model      4 layers\n11-27 07:15:28  step  20/1000   2%  lm 5.158\nexit code 0\n"


def _record(step, measured, **more):
    return StepRecord(step, 1000, metrics=measured, **more)


def test_a_run_is_read_with_all_that_its_directory_holds(tmp_path):
    event = Event("grokked", 20, {}, "it fell")
    records = [
        _record(10, {EN: 3.0, KO: 5.0, "train/loss": 4.0}, texts={"sample/en": "In the", "optim/lr_drop": "halved"}),
        _record(20, {EN: 2.0, KO: 4.0}, events={"lm/en": [event]}),
        _record(30, {EN: 2.5, KO: math.inf}),
    ]
    run = read_run(write_run(tmp_path / "tried", records, LOG))
    assert (run.name, run.state, run.n_steps, run.last_step) == ("tried", "done", 1000, 30)
    assert run.measures["train/loss"].values.tolist() == [4.0]
    assert run.best() == (20, 3.0)
    assert np.isnan(run.last(KO))
    assert run.last("nothing") is None
    assert [sample.text for sample in run.samples] == ["In the"]
    assert [(text.step, text.name) for text in run.texts] == [(10, "optim/lr_drop")]
    assert [(event.step, event.curve, event.kind) for event in run.events] == [(20, "lm/en", "grokked")]
    assert run.clock == {20: "11-27 07:15"}
    assert vars(run.starts[0]) == START


@pytest.mark.parametrize(
    ("log", "state"),
    [
        (LOG, "done"),
        ("stopped    by SIGTERM\nexit code 75\n", "stopped"),
        ("Traceback\nexit code 1\n", "crashed"),
        (f"{LOG}resumed\n11-27 08:15:28  step  40/1000   4%\n", "crashed"),
        (None, "stopped"),
        ("", "crashed"),
    ],
)
def test_the_state_is_read_from_the_end_of_the_log(tmp_path, log, state):
    assert read_run(write_run(tmp_path / "tried", [], log)).state == state


def test_a_run_is_running_while_its_checkpoints_are_claimed(tmp_path):
    path = write_run(tmp_path / "tried", [], LOG)
    held = lock(path / "checkpoints" / "lock", wait=False)
    assert read_run(path).state == "running"
    held.close()
    assert read_run(path).state == "done"


def test_a_run_that_has_only_begun_is_read_and_what_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text("max_steps: 5\n")
    (tmp_path / "young" / "provenance.jsonl").write_text('{"started": "2026-')
    run = read_run(tmp_path / "young")
    assert (run.name, run.last_step, run.starts, run.best()) == ("young", 0, (), None)
    assert "line 1: damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"not the directory of a run, it has no config\.yaml"):
        read_run(tmp_path)


def test_runs_differ_in_the_fields_whose_values_differ(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a", [], seed=1, tasks={})),
        read_run(write_run(tmp_path / "b", [], seed=2, tasks={"lm": 1.0})),
    ]
    assert differences(runs) == {"seed": ["1", "2"], "tasks.lm": ["-", "1.0"]}


def test_a_mean_takes_the_last_value_of_each_from_where_all_are_known():
    one = Series(np.array([1, 3, 5]), np.array([1.0, 3.0, 5.0]))
    two = Series(np.array([2, 3]), np.array([4.0, 5.0]))
    steps, values = mean([one, two])
    assert steps.tolist() == [2, 3, 5]
    assert values.tolist() == [2.5, 4.0, 5.0]
