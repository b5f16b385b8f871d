"""An optimizer of one's own: Lion (arXiv 2302.06675, algorithm 2), a step of the same size for every weight.

extensions:
  optimizers: {toy_lion: toy_optimizer:Lion}
optimizer: {name: toy_lion, lr: 1.0e-4, betas: [0.9, 0.99], options: {cautious: true}}
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """The sign of an average of the gradient, with decoupled weight decay."""

    state_tensors = ("exp_avg",)

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        cautious: bool = False,
    ) -> None:
        """cautious: leave out what goes against the gradient (arXiv 2411.16085)."""
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "cautious": cautious})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:  # of a head that the step has not used
                    continue
                state = self.state[weight]
                if not state:
                    state["exp_avg"] = torch.zeros_like(weight)
                update = torch.lerp(weight.grad, state["exp_avg"], beta1).sign_()
                if group["cautious"]:
                    update *= update * weight.grad > 0
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                state["exp_avg"].lerp_(weight.grad, 1 - beta2)
