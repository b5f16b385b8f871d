"""Which global positions a rank takes."""

from collections.abc import Iterator

from genesis_ds.data.tasks.lm import Batch, LanguageModelling


def micro_batches(
    task: LanguageModelling, position: int, global_batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's micro-batches of the optimizer step whose first sample has global position `position`.

    The ranks' m-th micro-batches together are the same samples in the same order for any world size that divides.
    """
    stride = micro_batch_size * world_size
    for start in range(position + rank * micro_batch_size, position + global_batch_size, stride):
        yield task.batch(range(start, start + micro_batch_size))
