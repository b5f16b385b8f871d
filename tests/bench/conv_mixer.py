"""A model of one's own whose memory memory_plan.py measures: causal convolutions in the place of attention."""

from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.config import ModelShape

WIDTH = 8
"""Positions that a convolution sees."""


class Block(nn.Module):
    """x + conv(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.conv = nn.Conv1d(dim, dim, WIDTH, groups=dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; what comes out at a position depends on it and those before."""
        columns = F.pad(self.norms[0](x).transpose(1, 2), (WIDTH - 1, 0))
        x = x + self.conv(columns).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class ConvMixer(nn.Module):
    """Token ids [B, T] -> hidden states [B, T, D]."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.dim)
        self.blocks = nn.ModuleList(Block(shape.dim, shape.intermediate_size) for _ in range(shape.n_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden
