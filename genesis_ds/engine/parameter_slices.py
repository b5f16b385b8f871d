"""Which part of each parameter a rank updates, and where DeepSpeed keeps it, under every ZeRO stage."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from genesis_ds.engine import internals
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.optimizers.muon import MatrixPart


@dataclass(frozen=True)
class ParameterSlice:
    """The part of a parameter that a rank updates, and where it is in a tensor of the optimizer's."""

    parameter: Tensor
    offset: int
    """Where the slice starts in the flattened parameter."""
    numel: int
    tensor: Tensor
    """What the optimizer updates: master weights, flat under ZeRO-1 to 3."""
    start: int
    """Where the slice starts in the flattened tensor."""


class Overlap(NamedTuple):
    """What a rank's partition has in common with a run of elements."""

    offset: int
    """Where the common elements start in the run."""
    numel: int
    start: int
    """Where they start in the partition."""


def parameter_slices(engine: DeepSpeedEngine, rank: int) -> Iterator[ParameterSlice]:
    """Yield the slice of every parameter that this rank updates a part of, padding left out."""
    stage = engine.zero_optimization_stage()
    if stage == 0:  # every rank updates all
        for parameter, master in internals.masters(engine):
            yield ParameterSlice(parameter, 0, parameter.numel(), master, 0)
    elif stage == 3:  # each parameter is cut into as many equal shards as ranks
        for shard in internals.shards(engine):
            if part := overlap(0, shard.numel, rank, shard.shard_numel):
                yield ParameterSlice(shard.parameter, part.offset, part.numel, shard.master, shard.start)
    else:  # a group's parameters one after the other are cut into as many equal partitions as ranks
        for parameter, offset, partition in internals.flat_parameters(engine):
            if part := overlap(offset, parameter.numel(), rank, partition.numel()):
                yield ParameterSlice(parameter, part.offset, part.numel, partition, part.start)


def matrix_parts(engine: DeepSpeedEngine, rank: int) -> dict[int, list[MatrixPart]]:
    """Return what each tensor that the optimizer updates under ZeRO-1 and 2 has of matrices, by the tensor's id.

    Those that are cut between ranks are there on all ranks, in the same order.
    """
    found: dict[int, list[MatrixPart]] = defaultdict(list)
    for parameter, offset, partition in internals.flat_parameters(engine):
        if parameter.ndim == 2:
            size, numel = partition.numel(), parameter.numel()
            own = overlap(offset, numel, rank, size) or Overlap(0, 0, 0)
            is_cut = offset // size != (offset + numel - 1) // size
            if own.numel or is_cut:
                found[id(partition)].append(MatrixPart(parameter.shape, own.offset, own.numel, own.start))
    return found


def overlap(start: int, numel: int, rank: int, partition: int) -> Overlap | None:
    """Return what a rank's partition has of `numel` elements from `start` on; None where it has nothing.

    Rank r's partition is of the elements r * partition to (r + 1) * partition.
    """
    first = max(start, rank * partition)
    common = min(start + numel, (rank + 1) * partition) - first
    return Overlap(first - start, common, first - rank * partition) if common > 0 else None
