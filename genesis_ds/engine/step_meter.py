"""How far an optimizer step moves a model, layer by layer, measured inside the step itself."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from genesis_ds.engine import internals
from genesis_ds.engine.distributed import sum_over_ranks
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.parameter_slices import ParameterSlice, parameter_slices
from genesis_ds.engine.ranks import Ranks

CHUNK = 1 << 22
"""Elements looked at together: three fp32 copies of as many are all the memory that a measurement takes."""


@dataclass(frozen=True)
class MeasuredSlice:
    """A parameter's slice in a tensor that the optimizer updates."""

    span: ParameterSlice
    layer: int | None
    """None: embeddings, the final norm, heads."""


@dataclass(frozen=True)
class StepNorms:
    """Euclidean norms of one optimizer step, over all ranks."""

    weights: float
    """Of all weights after the step."""
    gradients: list[float]
    """Of each layer's gradient, before clipping and before Grokfast's filter."""
    updates: list[float]
    """Of what the step added to each layer's weights."""
    cosine: float
    """No norm: the cosine of what the step added to the layers' weights and these after it; nan where one is 0."""


class StepMeter:
    """Measures the steps it is armed for, under every ZeRO stage, offload and number of ranks.

    As a hook on the torch optimizer it sees, whatever DeepSpeed does, this rank's part of the fp32 weights, gradients
    and moments, in memory at that moment even where they live on NVMe. So nothing is gathered; the sums of squares are
    added up over the ranks once. It comes before the hooks that change the gradient.

    Gradients come clipped, which is undone with the norm that the clipping used. Updates by AdamW are not differences
    of weights but its own formula (arXiv 1711.05101, algorithm 2) on the moments that the step leaves behind, so they
    are exact whatever was done to the gradient: with u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), new
    weights w' = (1 - lr wd) w - lr u, and hence w' - w = -lr (u + wd w') / (1 - lr wd). The rounding of w' is not
    seen: 2^-24 of a weight in fp32, but with bf16_master_weights_and_grads 2^-9, more than many an update. What is
    measured there is the update before it is rounded, but for the rounding of the moments.

    Updates by any other optimizer are differences from a copy of the fp32 weights, made as the optimizer begins: of a
    parameter group or a sub-group at a time, where DeepSpeed steps so. The memory plan counts it.
    """

    def __init__(
        self, engine: DeepSpeedEngine, layers: Sequence[nn.Module], ranks: Ranks, device: torch.device
    ) -> None:
        self.engine, self.layers, self.ranks, self.device = engine, layers, ranks, device
        self._slices: dict[int, list[MeasuredSlice]] = {}
        optimizer = internals.torch_optimizer(engine)
        self._is_adamw = type(optimizer) is AdamW or internals.is_cpu_adam(optimizer)  # a user's may be derived from it
        self._copies: dict[int, Tensor] = {}
        """id of each tensor that is being updated -> what it was before, where there is no formula."""

    def arm(self) -> None:
        """Measure the coming step. Between the last backward and the step, on every rank."""
        self._slices = self._by_tensor()
        self._weights = self._of_layers = self._product = 0.0
        self._gradients, self._updates = [0.0] * len(self.layers), [0.0] * len(self.layers)

    def take(self) -> StepNorms | None:
        """Return what was measured, after the step, on every rank; None where it was not an update, or not armed."""
        armed, self._slices = bool(self._slices), {}
        if not armed or not self.engine.was_step_applied():
            return None
        sums = [self._product, self._weights, self._of_layers, *self._gradients, *self._updates]
        if self.engine.zero_optimization_stage():  # else every rank has seen the whole
            sums = sum_over_ranks(sums, self.device)
        product, *squares = sums
        weights, of_layers, *layers = map(sqrt, squares)
        gradients = [norm * self._clipped_by() for norm in layers[: len(self.layers)]]
        updates = layers[len(self.layers) :]
        norms = of_layers * hypot(*updates)
        return StepNorms(weights, gradients, updates, product / norms if norms else nan)

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """Look at the gradients; copy the weights where there is no formula."""
        for _group, parameter, measured in self._seen(optimizer):
            if measured.layer is not None and parameter.grad is not None:
                self._gradients[measured.layer] += sum(map(_squares, _chunks(parameter.grad, measured.span)))
                if not self._is_adamw and id(parameter) not in self._copies:
                    self._copies[id(parameter)] = parameter.detach().clone()

    @torch.no_grad()
    def after(self, optimizer: Optimizer) -> None:
        """Look at the weights and moments."""
        for group, parameter, measured in self._seen(optimizer):
            squares = sum(map(_squares, _chunks(parameter, measured.span)))
            self._weights += squares
            if measured.layer is None:
                continue
            self._of_layers += squares
            if self._is_adamw and (state := optimizer.state.get(parameter)):
                added, product = _adamw_update(group, state, parameter, measured.span)
            elif (copy := self._copies.get(id(parameter))) is not None:
                added, product = _difference(copy, parameter, measured.span)
            else:
                continue
            self._updates[measured.layer] += added
            self._product += product
        self._copies.clear()

    def _clipped_by(self) -> float:
        """What the gradient was divided by (torch.nn.utils.clip_grad_norm_, and DeepSpeed alike)."""
        limit = self.engine.gradient_clipping()
        return max(1.0, (float(self.engine.get_global_grad_norm()) + 1e-6) / limit) if limit else 1.0

    def _seen(self, optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, MeasuredSlice]]:
        """DeepSpeed steps a parameter group or a sub-group at a time: the others are not there then."""
        for group in optimizer.param_groups if self._slices else ():
            for parameter in group["params"]:
                for measured in self._slices.get(id(parameter), ()):  # none in one that is all padding
                    yield group, parameter, measured

    def _by_tensor(self) -> dict[int, list[MeasuredSlice]]:
        """id of each tensor that the optimizer updates on this rank -> the parameters' slices in it."""
        layer_of = {id(weight): index for index, layer in enumerate(self.layers) for weight in layer.parameters()}
        found: dict[int, list[MeasuredSlice]] = defaultdict(list)
        for span in parameter_slices(self.engine, self.ranks.rank):
            found[id(span.tensor)].append(MeasuredSlice(span, layer_of.get(id(span.parameter))))
        return found


def _chunks(tensor: Tensor, span: ParameterSlice) -> tuple[Tensor, ...]:
    chunks: tuple[Tensor, ...] = tensor.detach().flatten().narrow(0, span.start, span.numel).split(CHUNK)
    return chunks


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float32)) ** 2


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.flatten().float() @ b.flatten().float())


def _difference(before: Tensor, after: Tensor, span: ParameterSlice) -> tuple[float, float]:
    """Squared norm of the difference of a slice, and its product with the slice afterwards."""
    squares = product = 0.0
    for a, b in zip(_chunks(before, span), _chunks(after, span), strict=True):
        difference = b - a
        squares += _squares(difference)
        product += _dot(difference, b)
    return squares, product


def _adamw_update(
    group: dict[str, Any], state: dict[str, Any], weights: Tensor, span: ParameterSlice
) -> tuple[float, float]:
    """Squared norm of AdamW's update of a slice, by StepMeter's formula, and its product with the slice afterwards."""
    rate, decay, step = group["lr"], group["weight_decay"], float(state["step"])
    corrections = [1 - beta**step for beta in group["betas"]]
    squares = product = 0.0
    for w, m, v in zip(*(_chunks(x, span) for x in (weights, state["exp_avg"], state["exp_avg_sq"])), strict=True):
        denominator = (v.float() / corrections[1]).sqrt_().add_(group["eps"])
        against = (m.float() / corrections[0]).div_(denominator).add_(w, alpha=decay)
        squares += _squares(against)
        product += _dot(against, w)
    scale = rate / (1 - rate * decay)
    return squares * scale**2, -scale * product
