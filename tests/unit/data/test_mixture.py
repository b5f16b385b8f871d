import json
from collections import Counter

import pytest

from genesis_ds.errors import UserError
from genesis_ds.tasks.mixture import Mixture, slots_per_block
from genesis_ds.tasks.positions import micro_batches, tasks_of_step
from genesis_ds.tasks.registry import DEFAULT_WEIGHTS


def test_every_block_of_40_slots_has_exactly_28_6_3_3_in_an_order_of_its_own():
    mixture = Mixture.begin(DEFAULT_WEIGHTS, slot_sequences=4, seed=0)
    blocks = [[mixture.locate(160 * block + 4 * slot)[0] for slot in range(40)] for block in range(50)]
    expected = {"lm": 28, "coherence": 6, "cross_reference": 3, "paraphrase": 3}
    assert all(Counter(block) == expected for block in blocks)
    assert len({tuple(block) for block in blocks}) == 50
    assert blocks[0] != [Mixture.begin(DEFAULT_WEIGHTS, 4, seed=1).locate(4 * slot)[0] for slot in range(40)]


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ({"lm": 1}, {"lm": 1}),
        ({"lm": 2, "coherence": 1, "paraphrase": 0}, {"lm": 2, "coherence": 1}),
        ({"lm": 0.7, "coherence": 0.15, "cross_reference": 0.075}, {"lm": 28, "coherence": 6, "cross_reference": 3}),
    ],
)
def test_a_block_is_the_smallest_that_makes_the_weights_whole(weights, slots):
    assert slots_per_block(weights) == slots


def test_weights_without_a_short_block_are_refused():
    with pytest.raises(UserError, match="tasks: these weights are whole only in blocks of 1234567 slots"):
        Mixture.begin({"lm": 1, "coherence": 0.234567}, 4, 0)


def test_each_task_sees_its_own_sequences_once_and_in_order_also_when_the_weights_change():
    mixture = Mixture.begin(DEFAULT_WEIGHTS, slot_sequences=4, seed=0)
    changed = mixture.changed(334, {"lm": 1, "coherence": 1})  # in the middle of a slot
    restored = Mixture.from_state(json.loads(json.dumps(changed.state_dict())), seed=0)
    seen: Counter[str] = Counter()
    for position in range(1000):
        task, own = restored.locate(position)
        assert own == seen[task]
        seen[task] += 1
        assert restored.consumed(position + 1) == {name: seen[name] for name in restored.consumed(position + 1)}
    assert [mixture.locate(position) for position in range(334)] == [restored.locate(p) for p in range(334)]
    assert Counter(restored.locate(p)[0] for p in range(334, 342)) == {"lm": 4, "coherence": 4}
    end = restored.position_of("coherence", 60)
    assert restored.consumed(end)["coherence"] == 60 > restored.consumed(end - 1)["coherence"]
    assert mixture.changed(334, {"lm": 28, "coherence": 6, "cross_reference": 3, "paraphrase": 3}) is mixture


class Positions:
    """A task whose batches are its own positions."""

    def batch(self, positions):
        return list(positions)

    def corrupted(self, batch, positions, step):
        return batch


@pytest.mark.parametrize(("micro_batch_size", "world_size"), [(2, 1), (2, 2), (1, 4), (4, 1), (4, 4)])
def test_ranks_share_the_micro_batches_of_a_step_whatever_their_number(micro_batch_size, world_size):
    mixture = Mixture.begin(DEFAULT_WEIGHTS, slot_sequences=4, seed=0)
    tasks = {name: Positions() for name in DEFAULT_WEIGHTS}
    sizes = {"global_batch_size": 16, "micro_batch_size": micro_batch_size, "world_size": world_size}
    ranks = [list(micro_batches(mixture, tasks, 80, step=5, rank=rank, **sizes)) for rank in range(world_size)]
    in_turn = [share for shares in zip(*ranks, strict=True) for share in shares]
    together = [(id(task), position) for task, batch in in_turn for position in batch]
    assert together == [(id(tasks[task]), own) for task, own in map(mixture.locate, range(80, 96))]
    used = {id(tasks[name]) for name in tasks_of_step(mixture, 80, 16, micro_batch_size)}
    assert used == {task for task, _ in together}
