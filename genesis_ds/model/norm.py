"""The norms of a block: computed in the dtype of what they normalise, the residual sum of DeepNorm always in fp32.

A norm reads its own weights alone, in its own forward: under ZeRO-3 they are there for no longer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Modules whose weights and biases do not decay, and are a parameter group of their own."""


class LayerNorm(nn.LayerNorm):
    """(x - mean) / deviation * weight + bias (arXiv 1607.06450), epsilon 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D] in x's dtype, which the weights are cast to."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class DeepNorm(nn.Module):
    """LayerNorm(alpha x + f(x)): a post-norm residual that stays trainable at 1,000 layers (arXiv 2203.00555).

    At 144 layers alpha x is 300 to 400 times as large as f(x) before training: rounded to bf16, half of the sums would
    equal alpha x.
    """

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.norm = LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x and branch f(x), of any dtypes: [B, T, D] -> [B, T, D] in x's dtype."""
        normed: Tensor = self.norm(torch.add(branch, x.float(), alpha=self.alpha)).to(x.dtype)
        return normed


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight (arXiv 1910.07467), epsilon 1e-6."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D], computed in x's dtype, in the weight's."""
        weight = self.weight.to(x.dtype)  # with weights of another dtype torch has no fused kernel
        return F.rms_norm(x, self.normalized_shape, weight, self.eps).to(self.weight.dtype)
