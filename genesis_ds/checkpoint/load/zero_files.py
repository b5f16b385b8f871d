"""A checkpoint of DeepSpeed's, of any ZeRO stage and number of ranks, as whole tensors by the parameters' names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.engine.parameter_slices import overlap
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import N_AVERAGED, STEP, WEIGHT, WEIGHT_AVERAGE

Group = dict[str, torch.Size]
"""Name -> shape of the parameters that lie in one tensor of a rank, in order."""
OTHER = "name another checkpoint with --resume"


@dataclass(frozen=True)
class RankFile:
    """The weights and the optimizer's state in one file. The tensors stay on the disk until they are used."""

    path: Path
    weights: list[Tensor]
    """Master weights: of one parameter under ZeRO-0; of a group or sub-group, flat, under ZeRO-1 to 3."""
    states: list[dict[str, Any]]
    """The optimizer's state of each of the weights; empty where it has none."""
    paddings: list[list[int]] | None = None
    """Elements of padding after each parameter of each group (zero_optimization.parameter_alignment)."""


@dataclass(frozen=True)
class StoredSlice:
    """A slice of a parameter, in the file of a rank."""

    offset: int
    """Where the slice starts in the flattened parameter."""
    numel: int
    file: RankFile
    index: int
    """Which of the file's weights holds the slice."""
    start: int
    """Where the slice starts in that tensor."""

    @property
    def state(self) -> dict[str, Any]:
        """The optimizer's state of the whole tensor."""
        return self.file.states[self.index]

    def read(self, key: str, first: int, last: int) -> Tensor:
        """Return the elements [first, last) of the flattened parameter, all of which are in this slice.

        key: WEIGHT, or a tensor of the optimizer's state.
        """
        tensor = self.file.weights[self.index] if key == WEIGHT else self.state[key]
        return tensor.flatten()[self.start + first - self.offset : self.start + last - self.offset]

    def check(self, capacity: int) -> None:
        """Raise UserError where a tensor of the file is too short for the slice, or longer than `capacity`."""
        states = {key: value for key, value in self.state.items() if key != STEP}
        for key, tensor in {WEIGHT: self.file.weights[self.index], **states}.items():
            if not self.start + self.numel <= tensor.numel() <= capacity:
                raise UserError(
                    f"{self.file.path}: {key} {self.index} has {tensor.numel():,} elements, "
                    f"{self.start + self.numel:,} to {capacity:,} belong there; {OTHER}"
                )


class ZeroFiles:
    """A checkpoint of engine.save_checkpoint, ZeRO stage 0 to 3 in fp32 or bf16, read without an engine.

    Raises UserError for a file that is missing or damaged, or does not agree with the others.
    """

    def __init__(self, directory: Path, trust: bool = False) -> None:
        """trust: as in safe_load."""
        self.directory, self.trust = directory, trust
        path = _model_states(directory)
        saved = safe_load(path, mmap=True, trust=trust)
        with _checked(path):
            zero = saved["ds_config"].get("zero_optimization", {})
            self.zero_stage: int = zero.get("stage", 0)
            self.n_ranks: int = saved["dp_world_size"]
            self.lr_scheduler: dict[str, Any] = saved["lr_scheduler"]
            self.global_steps: int = saved["global_steps"]
            self.global_samples: int = saved["global_samples"]
            self.skipped_steps: int = saved["skipped_steps"]
            self.n_averaged: int | None = saved.get(N_AVERAGED)
            files, groups = self._partitioned(saved) if self.zero_stage else self._unpartitioned(path, saved)
            self._slices = dict(self._locate(files, groups))
            shapes = {name: torch.Size(shape) for group in groups for name, shape in group.items()}
            self.names: tuple[str, ...] = tuple(name for name in saved["module"] if name in shapes)
            self.shapes = {name: shapes[name] for name in self.names}
            if len(shapes) > len(self.names):
                raise ValueError(f"{min(shapes.keys() - self.shapes.keys())} is not in the model")

    def weight(self, name: str) -> Tensor:
        """Return the whole master weight, fp32 [shape]."""
        return self.part(name, WEIGHT, 0, self.shapes[name].numel()).view(self.shapes[name])

    def average(self, name: str) -> Tensor:
        """Return the whole average of the weight, fp32 [shape]: the weight where it has none, as an unused head's."""
        key = WEIGHT_AVERAGE if WEIGHT_AVERAGE in self.state_keys(name) else WEIGHT
        return self.part(name, key, 0, self.shapes[name].numel()).view(self.shapes[name])

    def state(self, name: str) -> dict[str, Tensor]:
        """Return the optimizer's state, fp32 [shape], and the scalar `step` if it counts; empty before an update."""
        step, shape = self.step(name), self.shapes[name]
        whole = {key: self.part(name, key, 0, shape.numel()).view(shape) for key in self.state_keys(name)}
        return whole if step is None else {STEP: torch.tensor(step), **whole}

    def step(self, name: str) -> float | None:
        """Return how many updates the parameter has had; None where none, as a head's that no step has used.

        None also where the optimizer does not count.
        """
        steps = {float(stored.state[STEP]) if STEP in stored.state else None for stored in self._slices[name]}
        if len(steps) > 1:
            raise UserError(f"{self.directory}: the ranks' files disagree on the number of updates of {name}; {OTHER}")
        return steps.pop()

    def state_keys(self, name: str) -> list[str]:
        """Return the names of the tensors in the optimizer's state: exp_avg, exp_avg_sq, and what is beside them."""
        return [key for key in self._slices[name][0].state if key != STEP]

    def part(self, name: str, key: str, offset: int, numel: int) -> Tensor:
        """Return elements of the flattened weight (key WEIGHT) or of a tensor of its optimizer state, fp32 [numel]."""
        found = []
        for stored in self._slices[name]:
            first, last = max(offset, stored.offset), min(offset + numel, stored.offset + stored.numel)
            if first < last:
                found.append(stored.read(key, first, last))
        return (found[0] if len(found) == 1 else torch.cat(found)).float()

    def _unpartitioned(self, path: Path, saved: dict[str, Any]) -> tuple[list[RankFile], list[Group]]:
        """Return the one file of ZeRO-0, and each parameter as a group of its own."""
        outer = saved["optimizer"]
        optimizer = outer.get("optimizer_state_dict", outer)  # in bf16 DeepSpeed wraps the torch optimizer
        names = [name for group in optimizer["param_groups"] for name in group["parameters"]]
        if optimizer is outer:
            masters = [saved["module"][name] for name in names]
        else:
            masters = [master for group in outer["fp32_groups"] for master in group]
        file = RankFile(path, masters, [optimizer["state"].get(index, {}) for index in range(len(names))])
        return [file], [{name: master.shape} for name, master in zip(names, masters, strict=True)]

    def _partitioned(self, saved: dict[str, Any]) -> tuple[list[RankFile], list[Group]]:
        """Return the ranks' files of ZeRO-1 to 3, and the group of parameters in each of their tensors."""
        config, groups = saved["ds_config"], saved["param_shapes"]
        prefix = "bf16_" if config.get("bf16", {}).get("enabled", False) else ""
        files = [self._read_rank(rank, prefix) for rank in range(self.n_ranks)]
        if (config["zero_optimization"].get("offload_optimizer") or {}).get("device") == "nvme":
            sizes = [self._cut(_numels(group), [])[0] for group in groups]
            smallest = max(2**20, config.get("aio", {}).get("block_size", 0))
            folders = [self.directory / "offloaded_tensors" / f"rank{rank:02d}" for rank in range(self.n_ranks)]
            files = [_swapped(file, folder, sizes, smallest) for file, folder in zip(files, folders, strict=True)]
        return files, groups

    def _read_rank(self, rank: int, prefix: str) -> RankFile:
        path = self.directory / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        if not path.exists():
            raise UserError(f"{path}: missing; {self.n_ranks} ranks have saved this checkpoint; {OTHER}")
        saved = safe_load(path, mmap=True, trust=self.trust)
        with _checked(path):
            saved = saved["optimizer_state_dict"]
            weights = saved["fp32_flat_groups" if self.zero_stage == 3 else "single_partition_of_fp32_groups"]
            states = saved["optimizer_state_dict" if self.zero_stage == 3 else "base_optimizer_state"]
            # with zero_optimization.elastic_checkpoint it is a list
            states = dict(enumerate(states)) if isinstance(states, list) else states["state"]
            paddings = saved.get("param_alignment_paddings")
            return RankFile(path, weights, [states.get(index, {}) for index in range(len(weights))], paddings)

    def _locate(self, files: list[RankFile], groups: list[Group]) -> Iterator[tuple[str, list[StoredSlice]]]:
        """Yield each parameter's name and its slices, in order."""
        for file in files:
            if len(file.weights) != len(groups):
                raise UserError(f"{file.path}: {len(file.weights)} tensors instead of {len(groups)}; {OTHER}")
        for index, group in enumerate(groups):
            numels = _numels(group)
            paddings = files[0].paddings[index] if files[0].paddings else [0] * len(numels)
            capacity, cuts = self._cut(numels, paddings)
            for name, numel, (offset, partition, start) in zip(group, numels, cuts, strict=True):
                slices = [
                    StoredSlice(own.offset, numel=own.numel, file=file, index=index, start=start + own.start)
                    for rank, file in enumerate(files)
                    if (own := overlap(offset, numel, rank, partition))
                ]
                for stored in slices:
                    stored.check(capacity)
                    if stored.state.keys() != slices[0].state.keys():
                        found = ", ".join(stored.state) or "nothing"
                        raise UserError(f"{stored.file.path}: of {name} the optimizer's state has {found}; {OTHER}")
                yield name, slices

    def _cut(self, numels: list[int], paddings: list[int]) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the length of a rank's tensor and where each of its parameters, of so many elements, lies in it.

        For each parameter: where it starts in what is partitioned, the elements of a partition, and where the
        partition starts in the tensor.
        """
        if self.zero_stage == 0:
            return numels[0], [(0, numels[0], 0)]
        if self.zero_stage == 3:  # each parameter is partitioned on its own
            shards = [ceil(numel / self.n_ranks) for numel in numels]
            starts = accumulate(shards[:-1], initial=0)
            return sum(shards), [(0, shard, start) for shard, start in zip(shards, starts, strict=True)]
        ends = [*accumulate(numel + padding for numel, padding in zip(numels, paddings, strict=True))]
        partition = 2 * ceil(ends[-1] / (2 * self.n_ranks))  # DeepSpeed pads for NCCL
        return partition, [(offset, partition, 0) for offset in (0, *ends[:-1])]


def _numels(group: Group) -> list[int]:
    return [torch.Size(shape).numel() for shape in group.values()]


def _swapped(file: RankFile, folder: Path, sizes: list[int], smallest: int) -> RankFile:
    """Return the file of a rank with its optimizer on NVMe, with the tensors that were swapped out.

    Tensors of `smallest` bytes or more are in swap files, copied to the folder; the rank's file has the others.
    """

    def swapped(tensor: Tensor, name: str, size: int) -> Tensor:
        if size * tensor.element_size() < smallest:
            return tensor
        path = folder / f"{name}.tensor.swp"
        if not path.exists() or path.stat().st_size < size * tensor.element_size():
            raise UserError(f"{path}: missing or too short, and {size:,} elements belong there; {OTHER}")
        return torch.from_file(str(path), size=size, dtype=tensor.dtype)

    weights, states = [], []
    weight: Any
    for weight, state, size in zip(file.weights, file.states, sizes, strict=True):
        weights.append(swapped(weight, weight.ds_id, size))
        moments = {key: tensor for key, tensor in state.items() if key != STEP}
        states.append(state | {key: swapped(tensor, f"{key}-{weight.ds_id}", size) for key, tensor in moments.items()})
    return RankFile(file.path, weights, states)


def _model_states(directory: Path) -> Path:
    """Return the file with the weights in the training dtype and everything that is not partitioned."""
    names = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for name in names:
        if (directory / name).exists():
            return directory / name
    raise UserError(f"{directory}: no checkpoint of DeepSpeed's is there (neither {' nor '.join(names)}); {OTHER}")


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Raise UserError for whatever the file's content makes go wrong."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not what DeepSpeed saves ({error!r}); {OTHER}") from error
