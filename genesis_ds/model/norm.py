"""The norms of a block."""

from torch import Tensor, nn


class DeepNorm(nn.Module):
    """LayerNorm(alpha x + f(x)): a post-norm residual that stays trainable at 1,000 layers (arXiv 2203.00555)."""

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x and branch f(x): [B, T, D] -> [B, T, D]."""
        return self.norm(self.alpha * x + branch)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight (arXiv 1910.07467), epsilon 1e-6."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)
