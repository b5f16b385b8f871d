"""What happens around an optimizer's update, by hooks on the torch optimizer inside DeepSpeed's."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from genesis_ds.engine.deepspeed import TRUNK_GROUPS


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


def torch_optimizer(engine: Any) -> Optimizer:
    """The optimizer that DeepSpeed's wraps; ZeRO-0 in fp32 has no wrapper."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


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
