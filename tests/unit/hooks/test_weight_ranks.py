import json
from types import SimpleNamespace

import torch

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.observe.weight_ranks import WeightRanks

WEIGHTS = {"base.layers.0.w.weight": torch.eye(4), "base.layers.0.norm.weight": torch.ones(4), "other": torch.ones(2)}
NAMES = {"base.layers.0.w.weight": (0, "w")}
STABLE = "ranks/layer_0/w/stable_rank"


def hook(is_main=True):
    weights = WEIGHTS.copy()

    def chosen(names):
        yield from ((name, weight) for name, weight in weights.items() if name in names)

    return WeightRanks(chosen, NAMES, EvaluationSchedule(5), is_main), weights


def record_of(ranks, step, last=1000, events=(), curve="lm/en"):
    record = StepRecord(step, last, events={curve: [*events]} if events else {})
    ranks.before_update(record)
    ranks.on_step(record)
    return record


def test_matrices_are_measured_beside_what_they_were_before_the_first_step():
    ranks, weights = hook()
    ranks.before_training(0)
    weights["base.layers.0.w.weight"] = torch.ones(4, 4)
    found = record_of(ranks, 5).metrics
    assert round(found[STABLE], 6) == 1
    assert found[STABLE + metrics.AT_STEP_0] == 4
    assert len(found) == 4


def test_it_measures_at_every_tenth_evaluation_at_the_last_and_at_events():
    ranks, _ = hook()
    assert [step for step in range(1, 121) if record_of(ranks, step, last=120).metrics] == [5, 55, 105, 120]
    assert record_of(ranks, 121, events=[Event("grokked", 121, {}, "")]).metrics
    assert not record_of(ranks, 122).metrics
    assert not record_of(ranks, 123, events=[Event("grokked", 123, {}, "")], curve="lm/en/name").metrics


def test_only_matrices_are_asked_for_by_their_whole_shape():
    """Under ZeRO-3 a parameter itself is empty."""
    layer = torch.nn.ModuleDict({"w": torch.nn.Linear(4, 4, bias=False), "norm": torch.nn.LayerNorm(4, bias=False)})
    for weight in layer.parameters():
        weight.ds_shape, weight.data = weight.shape, torch.empty(0)
    model = torch.nn.Module()
    model.base = torch.nn.Module()
    model.base.layers = torch.nn.ModuleList([layer])
    engine = SimpleNamespace(model=model, weights=None, ranks=SimpleNamespace(is_main=True))
    run = SimpleNamespace(intervals=SimpleNamespace(trajectory=1))
    context = SimpleNamespace(engine=engine, run=run, schedules={"lm": EvaluationSchedule(5)})
    assert WeightRanks.build(context).names == {"base.layers.0.w.weight": (0, "w")}


def test_a_resumed_run_goes_on_counting_and_keeps_what_was_before_the_first_step():
    whole, _ = hook()
    whole.before_training(0)
    for step in (5, 10, 15):
        record_of(whole, step)
    resumed, _ = hook()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    resumed.before_training(15)
    assert [step for step in range(16, 60) if record_of(resumed, step).metrics] == [55]
    assert resumed.at_step_0 == whole.at_step_0


def test_weights_that_are_not_finite_have_no_rank_and_other_ranks_measure_nothing():
    ranks, weights = hook()
    weights["base.layers.0.w.weight"] = torch.full((2, 2), torch.nan)
    ranks.at_step_0 = {"ranks/layer_1/w/stable_rank": 1.0}
    assert not record_of(ranks, 5).metrics
    weights["base.layers.0.w.weight"] = torch.eye(2)
    assert STABLE + metrics.AT_STEP_0 not in record_of(ranks, 55, last=55).metrics
    assert not record_of(hook(is_main=False)[0], 5).metrics
