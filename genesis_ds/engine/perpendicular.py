"""The perpendicular gradient, exact under every ZeRO stage and offload."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from genesis_ds.engine.distributed import sum_over_ranks
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.parameter_slices import ParameterSlice, parameter_slices
from genesis_ds.engine.ranks import Ranks

CHUNK = 1 << 20
"""Elements looked at together; two fp64 copies of as many are the memory that it takes."""
ALONG = 1e-12
"""Share of a gradient's squared norm below which what is perpendicular is rounding, and taken for nothing."""


class Owned(NamedTuple):
    """A part of a parameter that this rank updates."""

    number: int
    """The parameter's, the same on all ranks."""
    tensor: Tensor
    """What the optimizer updates, which holds the part."""
    part: ParameterSlice


class PerpendicularGradient:
    """Takes from each parameter's gradient what only scales the parameter, and gives the rest the norm of the whole.

    g' = g - (w.g / w.w) w, then g' |g| / |g'|, of each parameter as a whole (Prieto et al., arXiv 2501.04697, section
    5, as in the authors' code). It comes last, so that what the optimizer uses is perpendicular. The products of a
    parameter that several ranks share are added up over them.
    """

    def __init__(self, engine: DeepSpeedEngine, ranks: Ranks, device: torch.device) -> None:
        self.device, self.is_shared = device, engine.zero_optimization_stage() > 0
        numbers: dict[Tensor, int] = {parameter: number for number, parameter in enumerate(engine.module.parameters())}
        self.n_parameters = len(numbers)
        self._owned: dict[int, list[Owned]] = defaultdict(list)
        """id of each tensor that the optimizer updates -> the parts in it."""
        for part in parameter_slices(engine, ranks.rank):
            self._owned[id(part.tensor)].append(Owned(numbers[part.parameter], part.tensor, part))

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """Change the gradients. Every rank calls it equally often, as DeepSpeed steps the same groups on all."""
        products = self._products(optimizer)
        for owned, whole in self._about_to_change(optimizer):
            along, weight, gradient = products[owned.number]
            if not weight:
                continue
            left = gradient - along**2 / weight
            scale = (gradient / left) ** 0.5 if left > ALONG * gradient else 0.0
            for w, g in _pairs(owned, whole):
                g.sub_(w, alpha=along / weight).mul_(scale)

    def after(self, optimizer: Optimizer) -> None:
        """Nothing is left to mend."""

    def _products(self, optimizer: Optimizer) -> list[list[float]]:
        """Return w.g, w.w and g.g of every parameter, over all ranks; zeros for one that is not about to change."""
        numbers, found = [], []
        for owned, whole in self._about_to_change(optimizer):
            for w, g in _pairs(owned, whole, torch.float64):
                numbers.append(owned.number)
                found.append(torch.stack([w @ g, w @ w, g @ g]))
        products = torch.zeros(self.n_parameters, 3, dtype=torch.float64)
        if found:
            products.index_add_(0, torch.tensor(numbers), torch.stack(found).cpu())
        if self.is_shared:
            added = sum_over_ranks(products.flatten().tolist(), self.device)
            products = torch.tensor(added, dtype=torch.float64).view_as(products)
        of_parameters: list[list[float]] = products.tolist()
        return of_parameters

    def _about_to_change(self, optimizer: Optimizer) -> Iterator[tuple[Owned, Tensor]]:
        """Yield each part of a parameter that has a gradient, and the gradient of the tensor that it is in."""
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    for owned in self._owned.get(id(tensor), ()):
                        yield owned, tensor.grad


def _pairs(owned: Owned, gradient: Tensor, dtype: torch.dtype | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights and gradient of a part, chunk by chunk, of a dtype; without one in the tensors' own memory."""
    part = slice(owned.part.start, owned.part.start + owned.part.numel)
    chunks = (tensor.detach().view(-1)[part].split(CHUNK) for tensor in (owned.tensor, gradient))
    for w, g in zip(*chunks, strict=True):
        yield (w, g) if dtype is None else (w.to(dtype), g.to(dtype))
