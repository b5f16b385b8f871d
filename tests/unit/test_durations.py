import dataclasses

import numpy as np
import pytest

from genesis_ds.config import CheckpointConfig, EvaluationConfig, RunConfig, ScheduleConfig, WeightAverageConfig
from genesis_ds.config.durations import count_log_spaced, given_in_epochs, in_steps, log_spaced
from genesis_ds.config.resolve import SizedRun, resolve_steps
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule


def evaluated(schedule, n_steps):
    return [step for step in range(1, n_steps + 1) if schedule.due(StepRecord(step, 10**9))]


def test_durations_may_be_given_in_epochs_wherever_steps_are():
    run = RunConfig(log_every="0.5 epochs", evaluation=EvaluationConfig(every="3 epochs", tasks_every=7))
    assert given_in_epochs(run) == ["log_every", "evaluation.every"]
    run = in_steps(run, steps_per_epoch=40.6)
    assert (run.log_every, run.evaluation.every, run.evaluation.tasks_every) == (20, 122, 7)
    assert given_in_epochs(run) == []
    rare = dataclasses.replace(run, checkpoint=CheckpointConfig(every="0.001 epochs"))
    assert in_steps(rare, 40.6).checkpoint.every == 1


@pytest.mark.parametrize("value", ["2 epoks", "epochs", "-1 epochs", -1])
def test_a_duration_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r'evaluation.every: .* is not allowed; give a number of steps, or "N epochs"'):
        EvaluationConfig(every=value)


@pytest.mark.parametrize(
    ("section", "given", "zero"),
    [
        (EvaluationConfig, {"every": -1}, "never"),
        (CheckpointConfig, {"every": -1}, "only at the end"),
        (ScheduleConfig, {"warmup_steps": -1}, "without"),
        (WeightAverageConfig, {"kind": "ema", "start": -1}, "from the first step on"),
    ],
)
def test_a_refusal_says_what_0_means_of_the_field(section, given, zero):
    with pytest.raises(UserError, match=f'give a number of steps, or "N epochs"; 0 is {zero}$'):
        section(**given)


@pytest.mark.parametrize("key", ["hooks", "optimizer.weight_average.start"])
def test_what_a_run_is_asked_for_in_steps_is_refused_under_its_own_key(key):
    run = resolve_steps(SizedRun(RunConfig(), None, None, tasks=(), heads=()), n_steps=90, steps_per_epoch=10)
    assert run.steps("2 epochs", key) == 20
    with pytest.raises(UserError, match=f"^{key}: 'soon' is not allowed"):
        run.steps("soon", key)


def test_two_lengths_of_one_run_are_refused():
    with pytest.raises(UserError, match="max_steps and max_epochs both say how long the run is"):
        RunConfig(max_steps=3, max_epochs=2)


def test_log_spaced_steps_are_so_many_a_decade():
    assert [step for step in range(1, 1001) if log_spaced(step, 3)] == [1, 3, 5, 10, 22, 47, 100, 216, 465, 1000]
    assert sum(log_spaced(step, 32) for step in range(1001, 10_001)) == 32
    assert not any(log_spaced(step, 0) for step in range(1, 100))


def test_evaluations_are_log_spaced_and_never_farther_apart_than_every():
    steps = evaluated(EvaluationSchedule(200, 32), 20_000)
    gaps = np.diff(steps)
    assert max(gaps) == 200
    expected = {*range(200, 20_001, 200)} | {step for step in range(1, 2681) if log_spaced(step, 32)}
    assert steps == sorted(expected)


def test_evaluations_come_five_times_as_often_while_something_happens():
    schedule = EvaluationSchedule(200, 0)
    assert evaluated(schedule, 600) == [200, 400, 600]
    schedule.dense = True
    assert evaluated(schedule, 200) == [40, 80, 120, 160, 200]
    assert evaluated(EvaluationSchedule(0, 0, dense=True), 600) == []


@pytest.mark.parametrize("per_decade", [0, 1, 3, 32, 100, 10_000])
def test_log_spaced_steps_are_counted_without_a_loop_over_the_run(per_decade):
    for first, last in ((1, 1), (1, 0), (1, 1000), (5, 5000), (900, 2000), (12345, 20000)):
        counted = sum(log_spaced(step, per_decade) for step in range(first, last + 1))
        assert count_log_spaced(first, last, per_decade) == counted
    assert count_log_spaced(1, 10**12, 32) == sum(log_spaced(step, 32) for step in range(1, 1001)) + 9 * 32
