import json
import math
from types import SimpleNamespace

import pytest
import torch

from genesis_ds.config import FaultsConfig
from genesis_ds.errors import UserError
from genesis_ds.faults.diagnosis import Diagnosis, Origin, why_skipped
from genesis_ds.faults.watching import watching
from genesis_ds.tasks.base import Batch, Losses
from genesis_ds.training import task_stats
from genesis_ds.training.task_stats import TaskStats


@pytest.mark.parametrize(("key", "value"), [("max_skipped_in_a_row", 0), ("max_rewinds", -1)])
def test_limits_that_make_no_sense_are_one_line(key, value):
    with pytest.raises(UserError, match=rf"faults.{key}: {value} is not allowed; give "):
        FaultsConfig(**{key: value})


def test_the_reason_names_the_first_loss_that_is_not_finite_and_otherwise_the_gradient():
    losses = [[("lm", 5.0), ("lm", 1.5)], [("lm", 4.0), ("coherence", math.nan)]]
    assert why_skipped(losses) == "the loss of micro-batch 2 of 2 (coherence) on rank 1 is nan"
    assert why_skipped([[("lm", 5.0)], [("lm", 7.25)]]) == "the gradient is not finite (the losses are, up to 7.25)"


def test_a_skipped_step_counts_for_nothing_in_reports_and_checkpoints():
    task, batch = SimpleNamespace(name="lm", kinds=(), extra_losses=()), Batch({}, {}, n_tokens=8)
    stats = TaskStats({"lm": task}, torch.device("cpu"))
    for loss, was_update in ((5.0, True), (math.nan, False), (6.0, True)):
        stats.add(task, batch, losses=Losses(torch.tensor(loss)), gradient_norm=torch.tensor(loss / 2))
        stats.end_step(was_update)
    assert stats.state() == {"lm": [2, 16, 11.0, 5.5]}


def test_an_extra_loss_is_the_mean_over_the_micro_batches_that_had_it_and_takes_up_older_sums(
    monkeypatch,
):
    monkeypatch.setattr(task_stats, "sum_over_ranks", lambda values, device: values)
    task, batch = SimpleNamespace(name="lm", kinds=(), extra_losses=("masked_loss",)), Batch({}, {}, n_tokens=8)
    stats = TaskStats({"lm": task}, torch.device("cpu"), {"lm": [1, 8, 2.0, 1.0]})
    loss, masked, norm = torch.tensor(9.0), torch.tensor(5.0), torch.tensor(1.0)
    stats.add(task, batch, losses=Losses(torch.tensor(3.0)), gradient_norm=norm)
    stats.add(
        task, batch, losses=Losses(loss, own=torch.tensor(4.0), extra={"masked_loss": masked}), gradient_norm=norm
    )
    stats.end_step(was_update=True)
    found = stats.report()
    assert (found["train/loss"], found["train/loss/lm"], found["train/masked_loss/lm"]) == (3.0, 3.0, 5.0), (
        "(2 + 3 + 4) / 3, and of one alone"
    )
    assert "train/masked_loss/lm" not in stats.report()


def test_watching_names_the_innermost_module_and_the_parameter_that_the_backward_pass_meets_first():
    first, last = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False)
    model = torch.nn.Sequential(first, torch.nn.Sequential(last))
    with watching(model) as watched:
        (model(torch.ones(1, 2)).sum() * math.inf).backward()
    assert (watched.activation, watched.gradient) == (None, "1.0.weight")
    torch.nn.init.constant_(last.weight, math.inf)
    with watching(model) as watched:
        model(torch.ones(1, 2))
    assert watched.activation == "1.0"
    assert not first._forward_hooks


def diagnosis(**more):
    origin = Origin("activation", "base.layers.3.feed_forward", micro_batch=0, task="lm", rank=1)
    facts = {"reason": "no update", "origin": origin, "faulty_weights": [], "learning_rate": 1e-3}
    return Diagnosis(7, [[32, 40], [40, 48]], **facts | more)


def test_a_diagnosis_says_where_it_began_and_what_to_do(tmp_path):
    text = "\n".join(diagnosis().report(tmp_path / "step-00000004", rewinds=1))
    for part in ("the output of base.layers.3.feed_forward (micro-batch 1, lm, rank 1)", "samples 32 to 47"):
        assert part in text
    assert f"--resume {tmp_path / 'step-00000004'}" in text
    assert "--faults.max_rewinds 2" in text
    assert diagnosis().last_update == 5
    assert "the weights a and 1 more are not finite" in diagnosis(faulty_weights=["a", "b"]).found()
    assert "does not repeat itself" in diagnosis(origin=None).found()


def test_diagnoses_of_a_run_are_a_list(tmp_path):
    path = tmp_path / "diagnosis.json"
    diagnosis().write(path, "rewound to x")
    diagnosis().write(path, "stopped")
    assert [entry["action"] for entry in json.loads(path.read_text())] == ["rewound to x", "stopped"]
