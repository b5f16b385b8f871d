import json

import numpy as np

from genesis_ds.analysis.grokking import Point
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.observe.grokking import Grokking

MEMORISED, GROKS, GROKKED = 200, 3000, 4000


def point(step):
    """Memorised at 200; validation falls from 3000 to 4000."""
    train = 4.0 if step < MEMORISED else 0.01
    val = float(np.interp(step, [0, MEMORISED, GROKS, GROKKED], [4.0, 5.0, 5.0, 0.01]))
    return Point(step, train, val, float(train < 1), float(step >= GROKKED), 1e-3)


def watch(hook, schedule, first, last):
    """Step -> record of every evaluation that is due, of a curve that groks and one that does not."""
    records = {}
    for step in range(first, last + 1):
        record = StepRecord(step, 10_000)
        if schedule.due(record):
            record.curves = {"lm/en": point(step), "lm/ko": Point(step, 2.0, 2.1)}
            records[step] = record
        hook.on_step(record)
    return records


def test_events_come_once_and_a_checkpoint_is_asked_for_when_grokking_is_confirmed():
    schedule = EvaluationSchedule(100)
    records = watch(Grokking("states", {"lm": schedule}), schedule, 1, 5000)
    events = {event.kind: step for step, record in records.items() for event in record.events.get("lm/en", [])}
    order = ["memorised", "plateau", "grokking_onset", "grokking_confirmed", "grokked"]
    assert [kind for kind in sorted(events, key=events.get) if kind in order] == order
    assert not any("lm/ko" in record.events for record in records.values())
    assert [step for step, record in records.items() if record.save_as] == [events["grokking_confirmed"]]
    dense = [step for step in records if step % 100]
    assert events["grokking_onset"] < min(dense)
    assert max(dense) <= events["grokked"]
    logged = records[events["grokked"]].metrics
    assert logged["grokking/lm/en/val_loss"] < 0.5 < logged["grokking/lm/en/gap_closed"]


def test_a_run_resumed_in_a_plateau_has_the_events_of_one_that_was_not_interrupted():
    schedule = EvaluationSchedule(100)
    whole = watch(Grokking("states", {"lm": schedule}), schedule, 1, 5000)
    schedule = EvaluationSchedule(100)
    hook = Grokking("states", {"lm": schedule})
    watch(hook, schedule, 1, 1500)
    schedule = EvaluationSchedule(100)
    resumed = Grokking("states", {"lm": schedule})
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    records = watch(resumed, schedule, 1501, 5000)
    assert {step: record.events for step, record in records.items()} == {
        step: record.events for step, record in whole.items() if step > 1500
    }


def test_a_run_resumed_between_onset_and_grokked_goes_on_evaluating_often():
    schedule = EvaluationSchedule(100)
    hook = Grokking("states", {"lm": schedule})
    watch(hook, schedule, 1, 3600)
    assert schedule.dense
    schedule = EvaluationSchedule(100)
    resumed = Grokking("states", {"lm": schedule})
    resumed.load_state_dict(hook.state_dict())
    assert schedule.dense
