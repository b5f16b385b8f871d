"""Where DeepSpeed keeps what a rank updates of each parameter."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from genesis_ds.engine.engine import torch_optimizer


@dataclass(frozen=True)
class Place:
    """The part of a parameter that a rank updates, and where it is in a tensor of the optimizer's."""

    parameter: Tensor
    offset: int
    """Where the part starts in the flattened parameter."""
    numel: int
    tensor: Tensor
    """What the optimizer updates: master weights, flat under ZeRO-1 to 3."""
    start: int
    """Where the part starts in the flattened tensor."""


def places(engine: Any, rank: int) -> Iterator[Place]:
    """Of every parameter that this rank updates a part of; without padding."""
    return (_whole, _flat, _flat, _sharded)[engine.zero_optimization_stage()](engine, rank)


def _whole(engine: Any, rank: int) -> Iterator[Place]:
    """ZeRO-0: every rank updates all."""
    groups = [group["params"] for group in torch_optimizer(engine).param_groups]
    for originals, masters in zip(getattr(engine.optimizer, "fp16_groups", groups), groups, strict=True):
        for parameter, master in zip(originals, masters, strict=True):
            yield Place(parameter, 0, parameter.numel(), master, 0)


def _flat(engine: Any, rank: int) -> Iterator[Place]:
    """ZeRO-1 and 2: a group's parameters one after the other, cut into as many equal partitions as ranks.

    DeepSpeed's own _hp_mapping takes the wrong order with round_robin_gradients and several ranks (0.19.8).
    """
    wrapper = engine.optimizer
    if hasattr(wrapper, "round_robin_bit16_groups"):
        groups, offsets = wrapper.round_robin_bit16_groups, wrapper.round_robin_bit16_offsets
    else:  # ZeRO-1 in bf16 with fp32 gradients
        groups = wrapper.bf16_groups
        offsets = [[*accumulate((parameter.numel() for parameter in group[:-1]), initial=0)] for group in groups]
    for group, starts, settings in zip(groups, offsets, torch_optimizer(engine).param_groups, strict=True):
        partition = settings["params"][0]
        for parameter, offset in zip(group, starts, strict=True):
            if part := overlap(offset, parameter.numel(), rank, partition.numel()):
                yield Place(parameter, part[0], part[1], partition, part[2])


def _sharded(engine: Any, rank: int) -> Iterator[Place]:
    """ZeRO-3: each parameter cut into as many equal shards as ranks; the shards of a sub-group are one tensor."""
    wrapper = engine.optimizer
    for parameter in engine.module.parameters():
        sub_group, start, shard = wrapper.grad_position[wrapper.get_param_id(parameter)]
        if part := overlap(0, parameter.ds_numel, rank, shard):
            yield Place(parameter, part[0], part[1], wrapper.fp32_partitioned_groups_flat[sub_group], start)


def overlap(start: int, numel: int, rank: int, partition: int) -> tuple[int, int, int] | None:
    """What a rank's partition has of `numel` elements from `start` on; None where it has nothing.

    Rank r's partition is of the elements r * partition to (r + 1) * partition. The answer: where the common part starts
    in the elements, how many it is, and where it starts in the partition.
    """
    first = max(start, rank * partition)
    common = min(start + numel, (rank + 1) * partition) - first
    return (first - start, common, first - rank * partition) if common > 0 else None
