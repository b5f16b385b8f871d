"""How large a parameter group is: DeepSpeed flattens, clones, updates and saves a group at a time."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
LARGEST = 2**27
"""Elements of a group, where no single weight has more. In fp32 they are 2^29 bytes: pinned memory, which torch rounds
up to powers of two, then loses nothing."""


def in_groups(weights: Sequence[T], numel: Callable[[T], int]) -> list[list[T]]:
    """Return the weights in their order, cut into groups as few as can be; one empty group of none."""
    groups, held = [list[T]()], 0
    for weight in weights:
        if groups[-1] and held + numel(weight) > LARGEST:
            groups.append([])
            held = 0
        groups[-1].append(weight)
        held += numel(weight)
    return groups
