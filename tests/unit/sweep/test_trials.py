"""The trials of a sweep, with runs that are written and not trained."""

import math
import os
from statistics import median

import pytest
from helpers.written_runs import write_run

from genesis_ds import metrics
from genesis_ds.engine import distributed
from genesis_ds.hooks.base import StepRecord
from genesis_ds.report.run_record import read_run

pytest.importorskip("optuna")

from genesis_ds.sweep import trials as trials_module
from genesis_ds.sweep.plan import Sweep
from genesis_ds.sweep.trials import Trials

LOSS = metrics.bits_per_byte("val_chapter", "en")
ACCURACY = "val/val_chapter/coherence/accuracy"
RATES = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a sweep; each trial reaches its learning rate at step 10. Stops before the trial with the number `stop`.

    The accuracy is the learning rate too, but of the trial with the number `unstable` not a number.
    """
    monkeypatch.setattr(trials_module, "refused", lambda words: "")

    def go(name, stop=None, unstable=None, **settings):
        def train(self, trial, words, path):
            if trial.number == stop:
                raise KeyboardInterrupt
            rate = trial.params["optimizer.lr"]
            accuracy = rate if trial.number != unstable else math.nan
            write_run(path, [StepRecord(10, 100, metrics={LOSS: rate, ACCURACY: accuracy})], "exit code 0\n")
            is_pruned = self.sweep.prune and self._is_behind(trial, path)
            return (75, True) if is_pruned else (0, False)

        monkeypatch.setattr(Trials, "_train", train)
        settings = {"fields": RATES, "method": "tpe", "trials": 16} | settings
        trials = Trials(Sweep(name=name, output_dir=str(tmp_path), **settings), say=print)
        try:
            trials.run()
        except KeyboardInterrupt:
            trials._claim.close()
            return None
        trials._claim.close()
        return trials.study.get_trials()

    return go


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_stopped_sweep_goes_on_with_the_trials_of_one_that_was_not(run, method):
    whole = run("whole", method=method)
    for stop in (3, 12):
        assert run("stopped", method=method, stop=stop) is None
    stopped = run("stopped", method=method)
    assert [trial.params for trial in stopped] == [trial.params for trial in whole]
    assert len({trial.params["optimizer.lr"] for trial in stopped}) == 16
    rates = [trial.params["optimizer.lr"] for trial in stopped]
    assert [trial.value for trial in stopped] == pytest.approx(rates, rel=1e-4)


def in_which_process(words):
    return f"planned in {os.getpid()}"


def test_on_a_gpu_a_plan_is_made_in_another_process_as_this_one_would_hold_some_of_the_card(run, monkeypatch):
    monkeypatch.setattr(distributed, "accelerator", lambda: "cuda")
    monkeypatch.setattr(trials_module, "refused", in_which_process)
    (trial,) = run("tried", method="random", trials=1)
    why = trial.user_attrs["why"]
    assert why.startswith("planned in ")
    assert why != in_which_process([])


def test_more_trials_may_be_asked_for_later(run):
    few = run("tried", method="random", trials=2)
    many = run("tried", method="random", trials=5)
    assert [trial.params for trial in many[:2]] == [trial.params for trial in few]
    assert len(many) == 5


def test_trials_worse_than_the_median_are_pruned(run):
    states = {trial.params["optimizer.lr"]: trial.state.name for trial in run("tried", method="random", prune=True)}
    assert set(states.values()) == {"COMPLETE", "PRUNED"}
    assert states[min(states)] == "COMPLETE"
    pruned = [rate for rate, state in states.items() if state == "PRUNED"]
    assert min(pruned) > sorted(states)[4]


def test_what_is_pruned_is_worse_by_the_sweeps_own_objective_and_direction(run):
    complete = []
    for trial in run("tried", method="random", prune=True, objective=ACCURACY, direction="maximize"):
        rate = trial.params["optimizer.lr"]
        is_behind = len(complete) >= 5 and rate < median(complete)
        assert trial.state.name == ("PRUNED" if is_behind else "COMPLETE")
        complete += [] if is_behind else [rate]
    assert len(complete) < 16


def test_a_trial_whose_objective_is_not_finite_has_failed_and_the_others_are_run(run):
    trials = run("tried", method="random", trials=3, objective=ACCURACY, unstable=1)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["why"] == f"no finite {ACCURACY}"


def test_a_trial_that_trains_is_read_again_only_where_it_has_reported(tmp_path, monkeypatch):
    trials = Trials(Sweep("watched", RATES, method="random", trials=1, prune=True, output_dir=str(tmp_path)), say=print)
    path = write_run(trials.directory / "trial-000", [StepRecord(10, 100, metrics={LOSS: 1.0})])
    line = f'{{"global_step": 20, "{LOSS}": 0.9}}'
    trains = tmp_path / "trains"
    trains.write_text(f"#!/bin/sh\nsleep 0.8\necho '{line}' >> {path}/metrics.jsonl\nsleep 0.8\nexit 7\n")
    trains.chmod(0o755)
    monkeypatch.setattr(trials_module.sys, "executable", str(trains))
    monkeypatch.setattr(trials_module, "POLL", 0.05)
    read = []
    monkeypatch.setattr(trials_module, "read_run", lambda its: read.append(its) or read_run(its))
    trial = trials.study.ask()
    assert trials._train(trial, [], path) == (7, False)
    assert len(read) == 2
    assert trials.study.get_trials()[0].intermediate_values == {10: 1.0, 20: 0.9}
