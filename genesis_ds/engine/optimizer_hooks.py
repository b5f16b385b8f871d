"""What happens around an optimizer's update, by hooks on the torch optimizer inside DeepSpeed's.

They see what the optimizer is about to use: this rank's part of the gradient, in the master weights' dtype, averaged
over ranks and micro-batches and clipped. `Engine.build` makes one list of them; they run in its order.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genesis_ds.config import GrokfastConfig, WeightAverageConfig
from genesis_ds.engine import internals
from genesis_ds.engine.distributed import add_over_ranks
from genesis_ds.engine.saved_state import SavedState
from genesis_ds.optimizers.registry import BLOCKS, GROKFAST_AVERAGE, WEIGHT_AVERAGE

TRUNK_GROUPS = ("matrices", "norms", BLOCKS)
"""The parameter groups that every step uses; the others are the tasks' heads, by the tasks' names."""


class OptimizerHook(Protocol):
    """Something that is done around each update; under some ZeRO stages several times a step, for some groups each."""

    def before(self, optimizer: Optimizer) -> None:
        """Change or look at the gradients that the optimizer is about to use."""

    def after(self, optimizer: Optimizer) -> None:
        """Look at or mend what the update has left."""


def register(hooks: Sequence[OptimizerHook], optimizer: Optimizer) -> None:
    """Have the optimizer call the hooks around each of its steps: in their order before it, from the last after it."""
    for hook in hooks:
        optimizer.register_step_pre_hook(lambda optimizer, *_, hook=hook: hook.before(optimizer))
    for hook in reversed(hooks):
        optimizer.register_step_post_hook(lambda optimizer, *_, hook=hook: hook.after(optimizer))


class HiddenGradients:
    """Gradients that are taken away while the optimizer runs: it skips parameters that have none."""

    def __init__(self) -> None:
        self._hidden: list[tuple[Tensor, Tensor | None]] = []

    def hide(self, parameters: Iterable[Tensor]) -> None:
        """Take the gradients of the parameters away."""
        for parameter in parameters:
            self._hidden.append((parameter, parameter.grad))
            parameter.grad = None

    def restore(self) -> None:
        """Give them back."""
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden.clear()


class FiniteUpdates:
    """Leaves out the update of a step whose gradient is not finite also under ZeRO-0 in fp32, where DeepSpeed does not.

    Elsewhere DeepSpeed wraps the torch optimizer, and where the norm of the whole gradient is not finite the wrapper
    drops the gradient on all ranks: weights, moments and schedule stay. Without a wrapper any gradient is used. Here
    the torch optimizer finds none, and has what the engine reads from a wrapper.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.is_finite = model, True
        self._gradients = HiddenGradients()

    def check(self, optimizer: Optimizer) -> None:
        """Look at the gradient, not clipped yet, between the last backward and the step, on every rank."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        from_all = norm.clone()
        add_over_ranks(from_all)
        self.is_finite = bool(torch.isfinite(from_all))
        internals.report_overflow(optimizer, not self.is_finite, norm if self.is_finite else math.inf)

    def before(self, optimizer: Optimizer) -> None:
        """Hide a gradient that is not finite."""
        if not self.is_finite:
            self._gradients.hide(p for group in optimizer.param_groups for p in group["params"])

    def after(self, optimizer: Optimizer) -> None:
        """Give it back."""
        self._gradients.restore()


class HeadUpdates:
    """Keeps an update away from the heads that no micro-batch of the step has used.

    The reference is AdamW in a plain torch loop with zero_grad(set_to_none=True): a parameter without a gradient is
    skipped. Its momentum does not move it, it does not decay, its moments and its count of steps stay as they are.
    DeepSpeed hands every parameter a gradient, of an unused one zeros (see MultiTaskModel) or, without that, the last
    one it had; here it is taken away while the optimizer runs.
    """

    def __init__(self) -> None:
        self.used: frozenset[str] = frozenset()
        """The heads that the step has used; `Engine.step` sets it."""
        self._gradients = HiddenGradients()

    def before(self, optimizer: Optimizer) -> None:
        """Hide the gradients of the other heads."""
        for group in optimizer.param_groups:
            if group["name"] not in (*TRUNK_GROUPS, *self.used):
                self._gradients.hide(group["params"])

    def after(self, optimizer: Optimizer) -> None:
        """Give them back."""
        self._gradients.restore()


class WeightAverage:
    """Averages the weights after each update, in the dtype of the masters, as torch.optim.swa_utils defines it.

    It stands before HeadUpdates in the list, so that it sees the heads too that a step has not used. The average is
    part of the optimizer's state, as Grokfast's is: that of a head begins with the head's first update, until which it
    is the head itself. A step without an update leaves it alone, and is not one of those that `swa` is the mean of.
    """

    def __init__(self, config: WeightAverageConfig, heads: HeadUpdates, *, start: int, every: int) -> None:
        """start, every: the config's, in steps."""
        self.config, self.heads, self.start, self.every = config, heads, start, every
        self.step = 0
        """The step of the run whose update comes next, the first being 0; `Engine.step` sets it."""
        self.n_averaged = 0
        """How many updates have been taken into it; part of the checkpoint."""
        self._first: dict[Tensor, Tensor] = {}

    @property
    def is_due(self) -> bool:
        """Whether the coming update is to be taken into it."""
        return self.step >= self.start and (self.step - self.start) % self.every == 0

    def end_step(self, applied: bool) -> None:
        """Count the step's update, if there was one. DeepSpeed may have called `after` several times."""
        self.n_averaged += applied and self.is_due

    def take_up(self, saved: SavedState) -> None:
        """Go on with the count of a checkpoint; where it was saved without one, with the steps that were due."""
        n_averaged, since = saved.n_averaged, saved.global_steps - self.start
        if not any(WEIGHT_AVERAGE in saved.state_keys(name) for name in saved.shapes):
            n_averaged = 0
        self.n_averaged = max(0, math.ceil(since / self.every)) if n_averaged is None else n_averaged

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """Keep the weights of a head that has its first update after the average has begun."""
        for parameter, is_trunk, _ in self._with_gradient(optimizer) if self.n_averaged else ():
            if not is_trunk and not optimizer.state.get(parameter):
                self._first[parameter] = parameter.clone()

    @torch.no_grad()
    def after(self, optimizer: Optimizer) -> None:
        """Take the updated weights into the average."""
        if not (self.n_averaged or self.is_due):
            return
        new = 1 - self.config.decay if self.config.kind == "ema" else 1 / (self.n_averaged + 1)
        for parameter, _, is_updated in self._with_gradient(optimizer):
            first = self._first.pop(parameter, None)
            if not (is_updated or optimizer.state.get(parameter)):
                continue
            state = optimizer.state[parameter]
            if WEIGHT_AVERAGE not in state:
                state[WEIGHT_AVERAGE] = parameter.detach().clone() if first is None else first
            if self.is_due:
                state[WEIGHT_AVERAGE].lerp_(parameter, new)

    def _with_gradient(self, optimizer: Optimizer) -> Iterator[tuple[Tensor, bool, bool]]:
        """Yield what is updated now or was left out of it, whether it is of the trunk, and whether it is updated."""
        for group in optimizer.param_groups:
            is_trunk = group["name"] in TRUNK_GROUPS
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, is_trunk, is_trunk or group["name"] in self.heads.used


class Grokfast:
    """Makes the slow part of the gradient larger: ema = alpha ema + (1 - alpha) g, then g = g + lamb ema.

    Grokfast-EMA, arXiv 2405.20233, algorithm 1; as in the authors' code the average starts with the first gradient. It
    is taken of the clipped gradient, and what it adds is not clipped. It comes after HeadUpdates in the list: the
    average of a head that the step has not used does not move either.

    The average is part of the optimizer's state and so of DeepSpeed's checkpoints. It comes to it after the first
    update, as optimizers make their own only where there is no state at all.
    """

    def __init__(self, config: GrokfastConfig) -> None:
        self.config = config
        self._first: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before(self, optimizer: Optimizer) -> None:
        """Filter the gradients."""
        updated = (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        for parameter in updated:
            average = optimizer.state[parameter].get(GROKFAST_AVERAGE)
            if average is None:
                average = parameter.grad.clone()
                self._first.append((parameter, average))
            else:
                average.mul_(self.config.alpha).add_(parameter.grad, alpha=1 - self.config.alpha)
            parameter.grad.add_(average, alpha=self.config.lamb)

    def after(self, optimizer: Optimizer) -> None:
        """Keep the averages that have begun with this update."""
        for parameter, average in self._first:
            optimizer.state[parameter][GROKFAST_AVERAGE] = average
        self._first.clear()


class CpuAdamSteps:
    """Makes an update by DeepSpeedCPUAdam depend on what a checkpoint holds, and on nothing else.

    Its C++ side keeps beta^step for all parameters together: it multiplies where the step is the last one and one
    more, and takes pow(beta, step) where it jumps (csrc/includes/cpu_adam.h, IncrementStep). The two differ in the last
    bits, so a resumed run would differ from an uninterrupted one. A jump before every update makes all of them pow.
    """

    def __init__(self) -> None:
        self._scratch = [torch.zeros(1) for _ in range(4)]

    def before(self, optimizer: Optimizer) -> None:
        """Jump."""
        internals.jump_cpu_adam_step(optimizer, self._scratch)

    def after(self, optimizer: Optimizer) -> None:
        """Nothing is left to mend."""
