import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genesis_ds import metrics
from genesis_ds.analysis.points import Point
from genesis_ds.config import OptimizerConfig, RunConfig, ScheduleConfig
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.observe.grokking import VERSES_JUDGED, Grokking

MEMORISED, GROKS, GROKKED = 200, 3000, 4000


def point(step):
    """Memorised at 200; validation falls from 3000 to 4000."""
    train = 4.0 if step < MEMORISED else 0.01
    val = float(np.interp(step, [0, MEMORISED, GROKS, GROKKED], [4.0, 5.0, 5.0, 0.01]))
    accuracy = float(np.interp(step, [GROKS, GROKKED], [0.0, 1.0]))
    return Point(step, train, val, float(train < 1), accuracy, 1e-3)


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


def test_a_run_that_leaves_a_task_goes_on_without_its_curve():
    schedule = EvaluationSchedule(100)
    hook = Grokking("states", {"lm": schedule})
    watch(hook, schedule, 1, 3200)
    of_another = EvaluationSchedule(100)
    resumed = Grokking("states", {"multi_token": of_another})
    resumed.load_state_dict(hook.state_dict())
    assert not of_another.dense


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


def test_what_is_changed_on_resume_marks_the_next_point_of_each_curve_even_after_another_interruption():
    schedule = EvaluationSchedule(100)
    hook = Grokking("states", {"lm": schedule}, {"weight decay": 0.1, "learning rate": 1e-3})
    watch(hook, schedule, 1, 2950)
    for decay in (1.0, 1.0):
        resumed = Grokking("states", {"lm": schedule}, {"weight decay": decay, "learning rate": 1e-3})
        resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
        hook = resumed
    records = watch(hook, schedule, 2951, 4500)
    marks = {step: record.texts for step, record in records.items() if record.texts}
    assert marks == {3000: {f"grokking/lm/{language}/changed": "weight decay" for language in ("en", "ko")}}
    events = [event for record in records.values() for event in record.events.get("lm/en", [])]
    assert events
    assert {event.confounded_by for event in events} == {"weight decay"}


STORED = Path(__file__).parents[2] / "data/before_rebuild"


@pytest.mark.parametrize("name", ["text/checkpoints/step-00000006", "arithmetic/checkpoints/step-00000040"])
def test_a_state_of_version_1_is_taken_up(name):
    saved = json.loads((STORED / name / "training_state.json").read_text())["hooks"]["Grokking"]
    tasks = {curve.partition("/")[0] for curve in saved["detectors"]}
    hook = Grokking("states", {task: EvaluationSchedule(100) for task in tasks})
    hook.load_state_dict(hook.convert(saved, 1))
    for curve, detector in hook.detectors.items():
        before = saved["detectors"][curve]
        assert detector.state_dict()["last_step"] == before["last_step"]
        if before["by_accuracy"]:
            assert detector.phase == before["phase"]
        detector.update(point(before["last_step"] + 10))
    assert {curve.partition("/")[0] for curve in hook.detectors} == {"lm"}, "the others are measured in another way now"
    assert hook.convert({}, 4) is None


def test_detectors_of_the_tasks_on_verses_begin_anew_after_version_2():
    before = Grokking("states", {"lm": EvaluationSchedule(100), "paraphrase": EvaluationSchedule(100)})
    curves = ("lm/en", "lm/en/name", "paraphrase/en-es")
    before.on_step(StepRecord(100, 10_000, curves={curve: point(100) for curve in curves}))
    saved = json.loads(json.dumps(before.state_dict()))
    resumed = Grokking("states", before.schedules)
    resumed.load_state_dict(resumed.convert(saved, 2))
    assert resumed.state_dict()["detectors"] == {curve: saved["detectors"][curve] for curve in curves[:2]}


def test_a_part_of_a_text_asks_for_no_checkpoint():
    schedule = EvaluationSchedule(100)
    hook = Grokking("states", {"lm": schedule})
    kinds = []
    for step in range(100, 5001, 100):
        record = StepRecord(step, 10_000, curves={"lm/en/name": point(step)})
        hook.on_step(record)
        kinds += [event.kind for event in record.events.get("lm/en/name", [])]
        assert record.save_as is None
    assert "grokking_confirmed" in kinds


def test_another_number_of_verses_marks_the_curves_of_the_tasks_that_are_judged_on_them():
    schedules = {"lm": EvaluationSchedule(100), "paraphrase": EvaluationSchedule(100)}
    hook = Grokking("states", schedules, {VERSES_JUDGED: 256})
    hook.on_step(StepRecord(100, 10_000, curves={"lm/en": point(100), "paraphrase/en-es": point(100)}))
    resumed = Grokking("states", schedules, {VERSES_JUDGED: 1200})
    resumed.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    assert resumed.changed == {"paraphrase/en-es": VERSES_JUDGED}


def test_a_plateau_of_version_1_goes_on_where_losses_decided_and_begins_anew_where_accuracies_should_have():
    saved = {"phase": "onset", "last_step": 3000, "memorised_at": 200, "best": 4.0, "gaps": [[2000, 4.9, 5.0, 4.0]]}
    saved |= {"plateau": [5.0, 5.0], "plateau_lowest": 5.0, "by_accuracy": False, "lr_rose_at": None}
    losses, both = {"train_loss": [0.1], "val_loss": [5.0]}, {"train_accuracy": [0.5], "val_accuracy": [0.1]}
    for recent, phase in ((losses, "onset"), (losses | both, "learning")):
        hook = Grokking("states", {"lm": EvaluationSchedule(100)})
        detectors = {"lm/en": saved | {"recent": recent, "since": {"back": [2900, 2]}}}
        hook.load_state_dict(hook.convert({"rule": "states", "detectors": detectors}, 1))
        assert hook.detectors["lm/en"].phase == phase
        later = [Point(step, 0.1, 2.0) for step in range(3100, 4500, 100)]
        kinds = [event.kind for each in later for event in hook.detectors["lm/en"].update(each)]
        assert kinds == (["grokking_confirmed", "late_improvement"] if phase == "onset" else ["memorised"])


def test_what_follows_a_fall_of_the_plateau_schedule_is_marked_by_it():
    hook = Grokking("states", {"lm": EvaluationSchedule(100)})
    marks = {}
    for step in (100, 200, 300, 400):
        record = StepRecord(step, 10_000, curves={"lm/en": point(step)})
        if step == 200:
            record.texts[metrics.LR_DROP] = "the learning rate falls"
        hook.on_step(record)
        marks[step] = record.texts.get("grokking/lm/en/changed")
    assert marks == {100: None, 200: None, 300: "learning rate", 400: None}


def test_what_follows_the_beginning_and_the_end_of_masked_input_is_marked_by_it():
    hook = Grokking("states", {"lm": EvaluationSchedule(100)}, masking_changes=(150, 300))
    marks = {}
    for step in range(50, 501, 50):
        curves = {} if step % 100 else {"lm/en": point(step)}
        record = StepRecord(step, 10_000, curves=curves)
        hook.on_step(record)
        marks[step] = record.texts.get("grokking/lm/en/changed")
    assert {step for step, mark in marks.items() if mark} == {200, 400}
    assert marks[200] == marks[400] == "masked input"


def test_the_weight_decay_of_a_group_and_that_at_the_end_are_weight_decay():
    def hook(**given):
        config = replace(RunConfig(), **given)
        run = SimpleNamespace(config=config, tasks=("lm",))
        return Grokking.build(SimpleNamespace(run=run, schedules={"lm": EvaluationSchedule(100)}))

    plain = hook()
    plain.on_step(StepRecord(100, 10_000, curves={"lm/en": point(100)}))
    saved = json.loads(json.dumps(plain.state_dict()))
    of_group = {"optimizer": OptimizerConfig(weight_decay_of={"matrices": 3.0})}
    for given in (of_group, {"schedule": ScheduleConfig(weight_decay_end_ratio=2.0)}):
        resumed = hook(**given)
        resumed.load_state_dict(saved)
        assert resumed.changed == {"lm/en": "weight decay"}
        resumed.changed = {}
        again = hook(**given)
        again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
        assert again.changed == {}
