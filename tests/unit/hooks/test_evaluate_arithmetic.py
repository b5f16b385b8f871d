import math
from contextlib import nullcontext

import pytest
import torch

from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.tasks.arithmetic import Answers

P = 7


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_loss_and_accuracy_of_a_model_that_knows_half_of_the_answers_by_hand(world_size, monkeypatch):
    """Micro-batches of 4 over several ranks, whose sums are added up here."""
    shares: list[list[float]] = []

    def add(values, on):
        shares.append(values)
        same_part = shares[-1::-2] if len(shares) > 2 else shares[-1:]
        return [sum(column) for column in zip(*same_part, strict=True)]

    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.sum_over_ranks", add)
    table = arithmetic_table(P, "add", 0.5, seed=0)
    calls = []

    def knows_small_a(task, tokens):
        """Right and sure where a < 3, otherwise it says = and is half sure of it."""
        calls.append(len(tokens))
        a, b = tokens[:, 0], tokens[:, 1]
        logits = torch.zeros(len(tokens), 3, P + 1)
        logits[:, -1] = -torch.inf
        small = a < 3
        logits[small, -1, ((a + b) % P)[small]] = 0.0
        logits[~small, -1, P] = math.log(P)
        logits[~small, -1, :P] = 0.0
        return logits

    for rank in range(world_size):
        calls_of_rank = ModelCalls(knows_small_a, Ranks(rank, rank, world_size), torch.device("cpu"))
        evaluation = Answers(table, max_equations=0, rows=4)
        hook = EvaluateTasks(calls_of_rank, nullcontext, {"lm": evaluation}, {"lm": EvaluationSchedule(5)})
        record = StepRecord(10, 20, learning_rate=0.5)
        hook.on_step(StepRecord(9, 20))
        hook.on_step(record)
    point = record.curves["lm/arithmetic"]
    for part, loss, accuracy in (
        (table.train, point.train_loss, point.train_accuracy),
        (table.validation, point.val_loss, point.val_accuracy),
    ):
        known = (part.tokens[:, 0] < 3).mean()
        assert accuracy == pytest.approx(known)
        assert loss == pytest.approx((1 - known) * math.log(2 * P), rel=1e-5)
    assert (point.step, point.learning_rate) == (10, 0.5)
    assert record.metrics["val/validation/arithmetic/accuracy"] == point.val_accuracy
    assert record.metrics["val/validation/arithmetic/accuracy/chance"] == pytest.approx(1 / P)
    n_calls = math.ceil(len(table.train) / (4 * world_size)) + math.ceil(len(table.validation) / (4 * world_size))
    assert len(calls) == world_size * n_calls
