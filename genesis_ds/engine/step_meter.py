"""How far an optimizer step moves a model, layer by layer, measured inside the step itself."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from genesis_ds.engine.distributed import Ranks, sum_over_ranks
from genesis_ds.engine.engine import gradient_norm, torch_optimizer
from genesis_ds.engine.parameter_slices import places
from genesis_ds.model.multitask import LM

CHUNK = 1 << 22
"""Elements looked at together: three fp32 copies of as many are all the memory that a measurement takes."""


@dataclass(frozen=True)
class Piece:
    """A parameter's part in a tensor that the optimizer updates."""

    start: int
    numel: int
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


class StepMeter:
    """Measures the steps it is armed for, under every ZeRO stage, offload and number of ranks.

    Hooks on the torch optimizer see, whatever DeepSpeed does, this rank's part of the fp32 weights, gradients and
    moments, in memory at that moment even where they live on NVMe. So nothing is gathered or copied; the sums of
    squares are added up over the ranks once. The first hook to be registered sees the gradient first: make the meter
    before the Trainer, which filters it.

    Gradients come clipped, which is undone with the norm that the clipping used. Updates are not differences of
    weights but AdamW's own formula (arXiv 1711.05101, algorithm 2) on the moments that the step leaves behind, so they
    are exact whatever was done to the gradient: with u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), new
    weights w' = (1 - lr wd) w - lr u, and hence w' - w = -lr (u + wd w') / (1 - lr wd). The rounding of w' is not
    seen: 2^-24 of a weight in fp32, but 2^-9 with bf16_master_weights_and_grads, more than many an update.
    """

    def __init__(self, engine: Any, ranks: Ranks, device: torch.device) -> None:
        self.engine, self.ranks, self.device = engine, ranks, device
        self.n_layers = len(engine.module.base.layers)
        self._pieces: dict[int, list[Piece]] = {}
        optimizer = torch_optimizer(engine)
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def arm(self) -> None:
        """Measure the coming step. Between the last backward and the step, on every rank."""
        self._pieces = pieces(self.engine, self.ranks.rank)
        self._weights, self._gradients, self._updates = 0.0, [0.0] * self.n_layers, [0.0] * self.n_layers
        self._stepped = False

    def take(self) -> StepNorms | None:
        """What was measured, after the step, on every rank; None where it was skipped (a gradient not finite)."""
        self._pieces = {}
        if not self._stepped:
            return None
        sums = [self._weights, *self._gradients, *self._updates]
        if self.engine.zero_optimization_stage():  # else every rank has seen the whole
            sums = sum_over_ranks(sums, self.device)
        weights, *layers = map(sqrt, sums)
        gradients = [norm * self._clipped_by() for norm in layers[: self.n_layers]]
        return StepNorms(weights, gradients, layers[self.n_layers :])

    def _clipped_by(self) -> float:
        """What the gradient was divided by (torch.nn.utils.clip_grad_norm_, and DeepSpeed alike)."""
        limit = self.engine.gradient_clipping()
        return max(1.0, (gradient_norm(self.engine) + 1e-6) / limit) if limit else 1.0

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        for _group, parameter, piece in self._seen(optimizer):
            if piece.layer is not None and parameter.grad is not None:
                self._gradients[piece.layer] += sum(map(_squares, _chunks(parameter.grad, piece)))

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        self._stepped = True
        for group, parameter, piece in self._seen(optimizer):
            self._weights += sum(map(_squares, _chunks(parameter, piece)))
            if piece.layer is not None:
                self._updates[piece.layer] += _update_squares(group, optimizer.state[parameter], parameter, piece)

    def _seen(self, optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, Piece]]:
        """DeepSpeed steps a parameter group or a sub-group at a time: the others are not there then."""
        for group in optimizer.param_groups if self._pieces else ():
            for parameter in group["params"]:
                for piece in self._pieces.get(id(parameter), ()):  # none in one that is all padding
                    yield group, parameter, piece


def logits_and_states(engine: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] and normed final hidden states [B, T, D] of token ids [B, T], by one forward pass."""
    states: list[Tensor] = []
    hook = engine.module.base.norm.register_forward_hook(lambda module, inputs, output: states.append(output))
    try:
        return engine(LM, tokens).output, states[0]
    finally:
        hook.remove()


def pieces(engine: Any, rank: int) -> dict[int, list[Piece]]:
    """id of each tensor that the optimizer updates on this rank -> the parameters' parts in it, without padding."""
    layer_of = {
        id(parameter): index
        for index, layer in enumerate(engine.module.base.layers)
        for parameter in layer.parameters()
    }
    found: dict[int, list[Piece]] = defaultdict(list)
    for place in places(engine, rank):
        found[id(place.tensor)].append(Piece(place.start, place.numel, layer_of.get(id(place.parameter))))
    return found


def _chunks(tensor: Tensor, piece: Piece) -> tuple[Tensor, ...]:
    return tensor.detach().flatten().narrow(0, piece.start, piece.numel).split(CHUNK)


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float32)) ** 2


def _update_squares(group: dict[str, Any], state: dict[str, Any], weights: Tensor, piece: Piece) -> float:
    """Squared norm of AdamW's update of a piece; its formula is StepMeter's."""
    rate, decay, step = group["lr"], group["weight_decay"], float(state["step"])
    corrections = [1 - beta**step for beta in group["betas"]]
    total = 0.0
    for w, m, v in zip(*(_chunks(x, piece) for x in (weights, state["exp_avg"], state["exp_avg_sq"])), strict=True):
        denominator = (v.float() / corrections[1]).sqrt_().add_(group["eps"])
        total += _squares((m.float() / corrections[0]).div_(denominator).add_(w, alpha=decay))
    return total * (rate / (1 - rate * decay)) ** 2
