"""Which global positions a rank takes."""

from collections.abc import Iterable, Iterator, Mapping

from genesis_ds.data.mixture import Mixture
from genesis_ds.data.tasks.base import Batch, Task


def micro_batches(
    mixture: Mixture,
    tasks: Mapping[str, Task],
    position: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
) -> Iterator[tuple[Task, Batch]]:
    """This rank's micro-batches of the optimizer step whose first sequence has global position `position`.

    The ranks' m-th micro-batches are of the same task, and together the same sequences in the same order for any world
    size that divides.
    """
    stride = micro_batch_size * world_size
    for start in range(position, position + global_batch_size, stride):
        name, first = mixture.locate(start)
        first += rank * micro_batch_size
        yield tasks[name], tasks[name].batch(range(first, first + micro_batch_size))


def next_position(position: int, left_out: Iterable[list[int]]) -> int:
    """The first global position from `position` on that lies in none of the ranges [start, end) to leave out."""
    for start, end in sorted(left_out):
        if start <= position < end:
            position = end
    return position
