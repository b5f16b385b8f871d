"""What happens around an optimizer's update, by hooks on the torch optimizer inside DeepSpeed's.

They see what the optimizer is about to use: this rank's part of the gradient, in the master weights' dtype,
averaged over ranks and micro-batches and clipped. They run in the order in which they were registered.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from genesis_ds.config import GrokfastConfig
from genesis_ds.engine.distributed import add_over_ranks
from genesis_ds.engine.engine import TRUNK_GROUPS, torch_optimizer


class FiniteUpdates:
    """Leaves out the update of a step whose gradient is not finite also under ZeRO-0 in fp32, where DeepSpeed does not.

    Elsewhere DeepSpeed wraps the torch optimizer, and where the norm of the whole gradient is not finite the wrapper
    drops the gradient on all ranks: weights, moments and schedule stay. Without a wrapper any gradient is used. Here
    the torch optimizer does the same, and has what the engine reads from a wrapper: `overflow` and the norm.
    """

    def __init__(self, engine: Any) -> None:
        self.engine, self.optimizer = engine, engine.optimizer
        self._is_bare = self.optimizer is torch_optimizer(engine)
        if self._is_bare:
            self.optimizer.overflow = False
            self._update, self.optimizer.step = self.optimizer.step, self._update_if_finite

    def check(self) -> None:
        """Between the last backward and the step, on every rank."""
        if self._is_bare:
            gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            from_all = norm.clone()
            add_over_ranks(from_all)
            self.optimizer.overflow = not torch.isfinite(from_all)
            self.optimizer._global_grad_norm = math.inf if self.optimizer.overflow else norm

    def _update_if_finite(self, *arguments: Any) -> Any:
        return None if self.optimizer.overflow else self._update(*arguments)


class HeadUpdates:
    """Keeps an update away from the heads that no micro-batch of the step has used.

    The reference is AdamW in a plain torch loop with zero_grad(set_to_none=True): a parameter without a gradient is
    skipped. Its momentum does not move it, it does not decay, its moments and its count of steps stay as they are.
    DeepSpeed hands every parameter a gradient, of an unused one zeros (see MultiTaskModel) or, without that, the last
    one it had; here it is taken away while the optimizer runs.
    """

    def __init__(self, engine: Any) -> None:
        self.used: set[str] = set()
        """The heads that the step has used; the trainer sets it before the update."""
        self._hidden: list[tuple[Tensor, Tensor | None]] = []
        optimizer = torch_optimizer(engine)
        optimizer.register_step_pre_hook(self._hide)
        optimizer.register_step_post_hook(self._restore)

    def _hide(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if group["name"] not in (*TRUNK_GROUPS, *self.used):
                for parameter in group["params"]:
                    self._hidden.append((parameter, parameter.grad))
                    parameter.grad = None

    def _restore(self, *_: Any) -> None:
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden.clear()


class Grokfast:
    """Makes the slow part of the gradient larger: ema = alpha ema + (1 - alpha) g, then g = g + lamb ema.

    Grokfast-EMA, arXiv 2405.20233, algorithm 1; as in the authors' code the average starts with the first gradient. It
    is taken of the clipped gradient, and what it adds is not clipped. Register it after HeadUpdates: the average of a
    head that the step has not used does not move either.

    The average is part of the optimizer's state and so of DeepSpeed's checkpoints. It comes to it after the first
    update, as AdamW makes its moments only where there is no state at all.
    """

    STATE = "grokfast_ema"

    def __init__(self, engine: Any, config: GrokfastConfig) -> None:
        self.config = config
        self._first: list[tuple[Tensor, Tensor]] = []
        optimizer = torch_optimizer(engine)
        optimizer.register_step_pre_hook(self._filter)
        optimizer.register_step_post_hook(self._keep)

    @torch.no_grad()
    def _filter(self, optimizer: Optimizer, *_: Any) -> None:
        updated = (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        for parameter in updated:
            average = optimizer.state[parameter].get(self.STATE)
            if average is None:
                average = parameter.grad.clone()
                self._first.append((parameter, average))
            else:
                average.mul_(self.config.alpha).add_(parameter.grad, alpha=1 - self.config.alpha)
            parameter.grad.add_(average, alpha=self.config.lamb)

    def _keep(self, optimizer: Optimizer, *_: Any) -> None:
        for parameter, average in self._first:
            optimizer.state[parameter][self.STATE] = average
        self._first.clear()


def forget_cpu_adam_steps(engine: Any) -> None:
    """Make an update by DeepSpeedCPUAdam depend on what a checkpoint holds, and on nothing else.

    Its C++ side keeps beta^step for all parameters together: it multiplies where the step is the last one and one
    more, and takes pow(beta, step) where it jumps (csrc/includes/cpu_adam.h, IncrementStep). The two differ in the last
    bits, so a resumed run would differ from an uninterrupted one. A jump before every update makes all of them pow.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer = torch_optimizer(engine)
    if isinstance(optimizer, DeepSpeedCPUAdam):
        scratch = [torch.zeros(1) for _ in range(4)]
        optimizer.register_step_pre_hook(lambda *_: _jump(optimizer, scratch))


def _jump(optimizer: Any, scratch: list[Tensor]) -> None:
    group = optimizer.param_groups[0]
    settings = 0.0, *group["betas"], group["eps"], 0.0, group["bias_correction"]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, 2**40, *settings, *scratch)
