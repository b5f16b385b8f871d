"""Which task a global position belongs to: exact counts in every block of slots, in a seeded order.

A slot is a number of sequences in a row of one task, over all ranks. The smallest number of slots that makes all
weights whole is a block; each block holds exactly its tasks' counts, in an order keyed by (seed, block). Weights may
change in the course of a run: each stretch with its own weights starts at the position where they changed and goes on
in every task where the one before left off. So the task at a position, and which of the task's own sequences it is,
are pure functions of the seed, the stretches and the position.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, NamedTuple

from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.errors import UserError

LONGEST_BLOCK = 1000


@dataclass(frozen=True)
class Stretch:
    """A part of the run with one set of weights."""

    start: int
    """Global position of its first sequence."""
    weights: dict[str, float]
    """Task -> weight above 0."""
    before: dict[str, int]
    """Task -> its sequences in all stretches before."""

    @cached_property
    def block(self) -> list[str]:
        """The task of every slot of a block, before its order is shuffled."""
        return [task for task, count in slots_per_block(self.weights).items() for _ in range(count)]


class Slot(NamedTuple):
    """The slot that a global position is in."""

    stretch: Stretch
    task: str
    earlier: dict[str, int]
    """Task -> its slots before this one in the stretch."""
    within: int
    """Sequences of the slot before the position."""


def slots_per_block(weights: Mapping[str, float]) -> dict[str, int]:
    """Return task -> slots in the smallest block that makes the weights whole.

    Raises UserError where that has more than LONGEST_BLOCK slots.
    """
    exact = {task: Fraction(str(weight)) for task, weight in weights.items() if weight}
    shares = {task: weight / sum(exact.values()) for task, weight in exact.items()}
    slots = lcm(*(share.denominator for share in shares.values()))
    if slots > LONGEST_BLOCK:
        raise UserError(
            f"tasks: these weights are whole only in blocks of {slots} slots, more than {LONGEST_BLOCK}; "
            "give simpler ones, such as 0.7 or 28"
        )
    return {task: int(share * slots) for task, share in shares.items()}


class Mixture:
    """The schedule of the tasks over the global positions of a run."""

    def __init__(self, stretches: Sequence[Stretch], slot_sequences: int, seed: int) -> None:
        self.stretches, self.slot_sequences, self.seed = list(stretches), slot_sequences, seed

    @classmethod
    def begin(cls, weights: Mapping[str, float], slot_sequences: int, seed: int) -> "Mixture":
        """Return a run's first schedule. Raises UserError for weights without a short block."""
        slots_per_block(weights)
        return cls([Stretch(0, dict(weights), {})], slot_sequences, seed)

    def changed(self, position: int, weights: Mapping[str, float]) -> "Mixture":
        """Return the schedule with these weights from a position on; itself where they are the present ones."""
        if slots_per_block(weights) == slots_per_block(self.stretches[-1].weights):
            return self
        stretch = Stretch(position, dict(weights), self.consumed(position))
        kept = [earlier for earlier in self.stretches if earlier.start < position]
        return Mixture([*kept, stretch], self.slot_sequences, self.seed)

    def locate(self, position: int) -> tuple[str, int]:
        """Return the task at a global position and the position among the task's own sequences."""
        slot = self._slot(position)
        before = slot.stretch.before.get(slot.task, 0) + slot.earlier[slot.task] * self.slot_sequences
        return slot.task, before + slot.within

    def consumed(self, position: int) -> dict[str, int]:
        """Return task -> its sequences before a global position."""
        slot = self._slot(position)
        counts = dict(slot.stretch.before)
        for task, earlier in slot.earlier.items():
            counts[task] = counts.get(task, 0) + earlier * self.slot_sequences
        counts[slot.task] += slot.within
        return counts

    def position_of(self, task: str, n: int) -> int:
        """Return the first global position before which the task, one of the present ones, has had n sequences."""
        return bisect_left(range(2**62), n, key=lambda position: self.consumed(position).get(task, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the JSON-able state; from_state is the inverse, given the seed."""
        return {"slot_sequences": self.slot_sequences, "stretches": [asdict(stretch) for stretch in self.stretches]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], seed: int) -> "Mixture":
        """Return the schedule whose state_dict has given the state."""
        return cls([Stretch(**stretch) for stretch in state["stretches"]], state["slot_sequences"], seed)

    def _slot(self, position: int) -> Slot:
        stretch = next(stretch for stretch in reversed(self.stretches) if stretch.start <= position)
        number, within = divmod(position - stretch.start, self.slot_sequences)
        block, index = divmod(number, len(stretch.block))
        permutation = keyed_permutation(f"tasks/{self.seed}/{stretch.start}/{block}", len(stretch.block))
        order = [stretch.block[slot] for slot in permutation]
        tasks = dict.fromkeys(stretch.block)
        earlier = {task: block * stretch.block.count(task) + order[:index].count(task) for task in tasks}
        return Slot(stretch, order[index], earlier, within)
