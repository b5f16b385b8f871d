"""Muon for the matrices of the blocks, AdamW for all other weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from genesis_ds.errors import UserError, shown
from genesis_ds.optimizers.registry import BLOCKS

COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7
"""Of the Newton-Schulz iteration (https://kellerjordan.github.io/posts/muon/), as in torch.optim.Muon."""


@dataclass(frozen=True)
class MatrixPart:
    """A matrix, and the part of it that lies in a flat tensor of the optimizer's."""

    shape: torch.Size
    offset: int
    """Where the part starts in the flattened matrix."""
    numel: int
    """Elements of the part; fewer than the matrix has where ranks share it, none where this rank has nothing of it."""
    start: int
    """Where the part starts in the tensor."""

    @property
    def is_whole(self) -> bool:
        """Whether no other rank has a part of the matrix."""
        return self.numel == self.shape.numel()


class Muon(Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon/) as torch.optim.Muon has it, with match_rms_adamw.

    The momentum of a matrix in a group named BLOCKS is orthogonalised and scaled by 0.2 sqrt(longer side), so that its
    root mean square is that of AdamW's updates and one learning rate and weight decay serve both (arXiv 2502.16982,
    section 2.2). Weights of all other groups are updated by torch's AdamW.

    Under ZeRO the tensors are flat, and a matrix may be cut between two ranks: `place` says where the matrices are. The
    parts of one that is cut are added up over the ranks, in fp32 and with zeros where another rank has it, so that
    each orthogonalises the same matrix as a single rank would, bit for bit. All ranks step the same groups in the same
    order.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: Sequence[float],
        eps: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        """betas, eps: AdamW's. momentum: Muon's, Nesterov's kind. Raises UserError for one that is not allowed."""
        if not isinstance(momentum, int | float) or not 0 <= momentum < 1:
            raise UserError(f"optimizer.options.momentum: {shown(momentum)} is not allowed; give a number in [0, 1)")
        # `fused` is where torch, and a resumed run, look for where the count of steps is kept.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": True}
        super().__init__(params, defaults | {"momentum": momentum})
        self._matrices: Mapping[int, Sequence[MatrixPart]] | None = None

    def place(
        self, matrices: Mapping[int, Sequence[MatrixPart]], add_over_ranks: Callable[[Tensor], None], on: torch.device
    ) -> None:
        """Say where the matrices are, by the id of each flat tensor: all of its group, in the same order on all ranks.

        on: the device to orthogonalise on, which add_over_ranks works on too.
        """
        self._matrices, self._add_over_ranks, self._device = matrices, add_over_ranks, on

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                update = self._update_matrices if group["name"] == BLOCKS else self._update_by_adamw
                if weight.grad is not None:
                    update(group, weight, weight.grad)

    def _update_matrices(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        if "momentum_buffer" not in self.state[weight]:
            self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffer = self.state[weight]["momentum_buffer"]
        if weight.ndim == 2:  # ZeRO-0
            parts: Sequence[MatrixPart] = [MatrixPart(weight.shape, 0, weight.numel(), 0)]
        else:
            assert self._matrices is not None
            parts = self._matrices.get(id(weight), ())  # none in one that is all padding
        buffer.lerp_(gradient, 1 - group["momentum"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        for part in parts:
            of_weight, g, m = (each.view(-1).narrow(0, part.start, part.numel) for each in (weight, gradient, buffer))
            update = self._orthogonal(g.lerp(m, group["momentum"]), part)
            of_weight.add_(update, alpha=-group["lr"] * 0.2 * sqrt(max(part.shape)))

    def _orthogonal(self, update: Tensor, part: MatrixPart) -> Tensor:
        """Return this rank's part of the orthogonalised matrix, flat."""
        if part.is_whole:
            whole = update.view(part.shape) if self._matrices is None else update.view(part.shape).to(self._device)
            return orthogonalised(whole).reshape(-1).to(update.device)
        whole = torch.zeros(part.shape.numel(), device=self._device)
        whole[part.offset : part.offset + part.numel] = update
        self._add_over_ranks(whole)
        if not part.numel:
            return update
        found = orthogonalised(whole.view(part.shape)).reshape(-1)
        return found[part.offset : part.offset + part.numel].to(update.device)

    def _update_by_adamw(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state = self.state[weight]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state |= {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        adamw(
            [weight],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            foreach=False,
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a bf16 matrix of the same singular vectors whose singular values are near 1; of zeros, zeros."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.bfloat16()
    x = x.T if is_tall else x
    x.div_(x.norm().clamp(min=EPS))
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
