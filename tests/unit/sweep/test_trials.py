"""The trials of a sweep, with runs that are written and not trained."""

import pytest
from helpers.written_runs import write_run

from genesis_ds import metrics
from genesis_ds.hooks.base import StepRecord

pytest.importorskip("optuna")

from genesis_ds.sweep import trials as trials_module
from genesis_ds.sweep.plan import Sweep
from genesis_ds.sweep.trials import Trials

LOSS = metrics.bits_per_byte("val_chapter", "en")
RATES = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a sweep; each trial reaches its learning rate at step 10. Stops before the trial with the number `stop`."""
    monkeypatch.setattr(trials_module, "refused", lambda words: "")

    def go(name, stop=None, **settings):
        def train(self, trial, words, path):
            if trial.number == stop:
                raise KeyboardInterrupt
            write_run(path, [StepRecord(10, 100, metrics={LOSS: trial.params["optimizer.lr"]})], "exit code 0\n")
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
