import pytest

from genesis_ds.hooks.base import StepRecord


def test_a_metric_that_two_hooks_measure_is_an_error():
    record = StepRecord(1, 10, metrics={"loss": 1.0})
    record.metrics |= {"accuracy": 0.5}
    with pytest.raises(ValueError, match="the metric accuracy is measured twice at one step"):
        record.metrics["accuracy"] = 0.6
    with pytest.raises(ValueError, match="the metric loss is measured twice"):
        record.metrics |= {"loss": 2.0}
    assert record.metrics == {"loss": 1.0, "accuracy": 0.5}


def test_everything_is_due_at_the_last_step_whatever_ended_the_run():
    assert StepRecord(7, 10, is_last=True).due(5)
    assert StepRecord(10, 10).due(0)
    assert not StepRecord(7, 10).due(5)
