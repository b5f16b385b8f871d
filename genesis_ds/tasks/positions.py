"""The global positions that a rank takes in an optimizer step."""

from collections.abc import Iterable, Iterator, Mapping

from genesis_ds.tasks.base import Batch, Task
from genesis_ds.tasks.mixture import Mixture
from genesis_ds.tasks.noise import NoiseSource


def micro_batches(
    mixture: Mixture,
    tasks: Mapping[str, Task],
    position: int,
    *,
    step: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    noise: NoiseSource | None = None,
) -> Iterator[tuple[Task, Batch]]:
    """Yield this rank's micro-batches of the optimizer step whose first sequence has global position `position`.

    step: of the run, the first being 0. It may be behind the position, where samples have been left out.

    The ranks take turns, and together have the same micro-batches whatever their number. The ranks' m-th micro-batches
    may be of different tasks: MultiTaskModel calls the same modules in the same order for each, and so autograd, which
    goes back in the order of calls, hands their gradients to DeepSpeed's collectives in the same order on every rank.
    """
    stride = micro_batch_size * world_size
    for start in range(position + rank * micro_batch_size, position + global_batch_size, stride):
        name, first = mixture.locate(start)
        positions = range(first, first + micro_batch_size)
        batch = tasks[name].corrupted(tasks[name].batch(positions), positions, step)
        yield tasks[name], noise.add(batch, name, positions) if noise else batch


def tasks_of_step(mixture: Mixture, position: int, global_batch_size: int, micro_batch_size: int) -> set[str]:
    """Return the tasks of all ranks' micro-batches of the optimizer step at a global position."""
    starts = range(position, position + global_batch_size, micro_batch_size)
    return {mixture.locate(start)[0] for start in starts}


def next_position(position: int, left_out: Iterable[list[int]]) -> int:
    """Return the first global position from `position` on that lies in none of the ranges [start, end) left out."""
    for start, end in sorted(left_out):
        if start <= position < end:
            position = end
    return position
