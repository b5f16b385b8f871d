"""StableMax in the place of softmax (Prieto et al., arXiv 2501.04697, section 4).

StableMax takes s(x) / sum s in the place of exp(x) / sum exp, with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below. Its
logarithm is log s(x) = sign(x) log(1 + |x|), so that it is the softmax of that: a model that gives these logits has
StableMax in its loss, its evaluations and its samples.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _LogS(torch.autograd.Function):
    """sign(x) log(1 + |x|) with its derivative 1 / (1 + |x|), which autograd has not got at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.copysign(x.abs().log1p_(), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        of_logits: Tensor = gradient / (1 + x.abs())
        return of_logits


def stablemax_logits(logits: Tensor) -> Tensor:
    """Return logits of any shape, fp32, of which the softmax is the StableMax of those given."""
    found: Tensor = _LogS.apply(logits.float())  # type: ignore[no-untyped-call]
    return found
