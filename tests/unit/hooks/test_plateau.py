import json
import math

import pytest

from genesis_ds import metrics
from genesis_ds.config import ScheduleConfig
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.observe.plateau import Plateau
from genesis_ds.training.session import train_arguments


def hook(scales, **schedule):
    config = ScheduleConfig(kind="plateau", **{"factor": 0.5, "patience": 2} | schedule)
    return Plateau(config, losses=["en", "es"], every=10, warmup_steps=20, set_scale=scales.append)


def watch(plateau, losses, first=30):
    """The records of evaluations from step `first` on."""
    records = []
    for n, loss in enumerate(losses):
        record = StepRecord(first + 10 * n, 10**6, metrics={"en": loss - 0.1, "es": loss + 0.1})
        plateau.on_step(record)
        records.append(record)
    return records


def test_the_rate_falls_each_time_that_as_many_evaluations_have_no_new_best():
    scales = []
    losses = [3.0, 2.0, 2.1, 1.9, 1.95, 1.9, 1.9, 1.9, 1.8]
    records = watch(hook(scales), losses)
    assert scales == [0.5, 0.25]
    assert [r.global_step for r in records if metrics.LR_DROP in r.texts] == [80, 100]
    assert [r.metrics[metrics.LR_SCALE] for r in records] == [1, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert "from 1 to 0.5 of its peak after step 80" in records[5].texts[metrics.LR_DROP]


def test_what_is_better_by_next_to_nothing_is_no_new_best():
    scales = []
    watch(hook(scales), [2.0, 1.9995, 1.999])
    assert scales == []
    watch(hook(scales), [2.0, 1.9999, 1.9998])
    assert scales == [0.5]


def test_it_never_falls_below_the_least_share_of_the_peak():
    scales = []
    watch(hook(scales, min_lr_ratio=0.3), [2.0] * 20)
    assert scales == [0.5, 0.3]


def test_a_loss_that_is_no_number_is_no_new_best():
    scales = []
    plateau = hook(scales)
    watch(plateau, [math.nan, math.nan])
    assert scales == [0.5]
    plateau.load_state_dict(json.loads(json.dumps(plateau.state_dict(), allow_nan=False)))
    assert plateau.best == math.inf


def test_the_warm_up_and_evaluations_between_the_regular_ones_do_not_count():
    scales = []
    plateau = hook(scales)
    for step in (10, 20, 23, 27, 31, 32, 33):
        plateau.on_step(StepRecord(step, 10**6, metrics={"en": 2.0, "es": 2.0}))
    assert (scales, plateau.best) == ([], math.inf)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_run_resumed_anywhere_has_the_rates_of_one_that_was_not_interrupted(stop):
    losses = [3.0, 2.0, 2.1, 2.2, 1.9, 1.95, 1.9, 1.9, 1.9, 1.8, 1.85, 1.9]
    whole = [record.metrics for record in watch(hook([]), losses)]
    plateau = hook([])
    watch(plateau, losses[:stop])
    scales = []
    resumed = hook(scales)
    resumed.load_state_dict(json.loads(json.dumps(plateau.state_dict())))
    assert scales == [plateau.scale], "the engine is told where the rate was"
    records = watch(resumed, losses[stop:], first=30 + 10 * stop)
    assert [record.metrics for record in records] == whole[stop:]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--schedule.factor", "1"], "schedule.factor: 1.0 is not allowed; give a number above 0 and below 1"),
        (["--schedule.factor", "0"], "schedule.factor: 0.0 is not allowed; give a number above 0 and below 1"),
        (["--schedule.patience", "0"], "schedule.patience: 0 is not allowed; give a whole number above 0"),
        (["--evaluation.every", "0"], "plateau watches the evaluations, and evaluation.every is 0; give a number"),
        (["--evaluation.every", "0 epochs"], "plateau watches the evaluations, and evaluation.every is 0"),
        (["--tasks.coherence", "1", "--tasks.lm", "0"], "plateau watches the validation loss of lm; give tasks.lm"),
    ],
)
def test_a_schedule_that_cannot_fall_is_one_line(flags, message):
    with pytest.raises(UserError) as caught:
        train_arguments(["--schedule.kind", "plateau", *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
