"""Rotary position embedding over interleaved pairs (arXiv 2104.09864).

The tables are fp32 and live outside the module: as buffers they would be cast to bf16 with the weights.
"""

from functools import lru_cache

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the rotation angles, fp32 [T, K/2], or [B, T, K/2] where rows have positions of their own."""


@lru_cache(maxsize=8)
def rope_table(n_positions: int, head_dim: int, theta: float, device: torch.device) -> Rotation:
    """Cosines and sines of the rotation angles, each fp32 of shape [n_positions, K/2]."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(n_positions, device=device, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of x [B, T, H, K] by each position's angles, in fp32, back in x's dtype."""
    cos, sin = (part.unsqueeze(-2) for part in rotation)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)
