import numpy as np
import pytest
import torch

from genesis_ds.config.data import ArithmeticConfig
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.errors import UserError
from genesis_ds.tasks.arithmetic import ModularArithmetic
from genesis_ds.tasks.mixture import Mixture
from genesis_ds.tasks.positions import micro_batches

P = 7
TABLE = arithmetic_table(P, "add", 0.3, seed=0)


@pytest.mark.parametrize(
    ("operation", "answer"), [("add", lambda a, b: a + b), ("subtract", lambda a, b: a - b), ("multiply", int.__mul__)]
)
def test_the_two_parts_hold_every_pair_once_with_its_answer(operation, answer):
    table = arithmetic_table(P, operation, 0.3, seed=0)
    assert len(table.train) == int(0.3 * P * P)
    tokens = np.concatenate([table.train.tokens, table.validation.tokens]).tolist()
    answers = np.concatenate([table.train.answers, table.validation.answers]).tolist()
    assert sorted(tokens) == [[a, b, P] for a in range(P) for b in range(P)]
    assert answers == [answer(a, b) % P for a, b, _ in tokens]


def test_a_quotient_times_its_divisor_is_the_dividend_and_nothing_is_divided_by_0():
    table = arithmetic_table(P, "divide", 0.5, seed=0)
    assert len(table.train) == int(0.5 * P * (P - 1))
    tokens = np.concatenate([table.train.tokens, table.validation.tokens])
    answers = np.concatenate([table.train.answers, table.validation.answers])
    assert sorted(tokens.tolist()) == [[a, b, P] for a in range(P) for b in range(1, P)]
    assert (answers * tokens[:, 1] % P == tokens[:, 0]).all()


def test_a_modulus_that_cannot_be_divided_by_is_refused():
    with pytest.raises(UserError, match=r"arithmetic\.modulus: 9.*a prime"):
        ArithmeticConfig(modulus=9, operation="divide")


def test_the_split_depends_on_its_seed_and_on_nothing_else():
    again, other = (arithmetic_table(P, "multiply", 0.3, seed) for seed in (0, 1))
    assert (again.train.tokens == TABLE.train.tokens).all()
    assert (other.train.tokens != TABLE.train.tokens).any()
    assert len({table.fingerprint for table in (TABLE, again, other)}) == 3


def rows(batch):
    return torch.cat([batch.inputs["tokens"], batch.labels["answers"][:, None]], dim=1).tolist()


def test_an_epoch_visits_every_training_pair_once_and_the_next_one_in_another_order():
    task, n = ModularArithmetic(TABLE.train, seed=0), len(TABLE.train)
    first, second = (rows(task.batch(range(epoch * n, (epoch + 1) * n))) for epoch in range(2))
    expected = np.column_stack([TABLE.train.tokens, TABLE.train.answers]).tolist()
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second


def test_a_batch_is_a_pure_function_of_seed_and_position():
    expected = rows(ModularArithmetic(TABLE.train, seed=0).batch(range(10**7, 10**7 + 8)))
    assert rows(ModularArithmetic(TABLE.train, seed=0).batch([10**7 + 5])) == expected[5:6]
    assert rows(ModularArithmetic(TABLE.train, seed=1).batch(range(10**7, 10**7 + 8))) != expected


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_sees_the_same_pairs(world_size):
    """A batch longer than an epoch, as where a run lowers its train_share."""
    task = ModularArithmetic(TABLE.train, seed=0)
    mixture = Mixture.begin({"lm": 1}, 8, seed=0)
    sizes = {"global_batch_size": 24, "micro_batch_size": 8 // world_size, "world_size": world_size}
    per_rank = [
        [rows(batch) for _, batch in micro_batches(mixture, {"lm": task}, 24, step=3, rank=rank, **sizes)]
        for rank in range(world_size)
    ]
    together = [row for micro_step in zip(*per_rank, strict=True) for part in micro_step for row in part]
    assert together == rows(task.batch(range(24, 48)))


def test_the_loss_is_that_of_the_answer_alone():
    task = ModularArithmetic(TABLE.train, seed=0)
    batch = task.batch(range(4))
    logits = torch.randn(4, 3, P + 1)
    logits[:3, -1] = torch.nn.functional.one_hot(batch.labels["answers"][:3], P + 1) * 100.0
    logits[3, -1] = 0.0
    logits[3, -1, P] = 1.0
    loss, right = task.loss(logits, batch)
    assert loss.item() == pytest.approx(np.log(np.e + P) / 4, rel=1e-5)
    assert right.tolist() == [True, True, True, False]
