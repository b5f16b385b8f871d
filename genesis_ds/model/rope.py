"""Rotary position embedding over interleaved pairs (arXiv 2104.09864).

The tables are fp32 and live outside the module: as buffers they would be cast to bf16 with the weights.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def rope_table(n_positions: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Cosine and sine of each position's rotation angles, fp32 [n_positions, K/2, 2]."""
    with torch.inference_mode(False):  # training must be able to use what inference has made first
        frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(n_positions, device=device, dtype=torch.float32), frequencies)
        return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rope(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of x [B, T, H, K] by each position's angles, in fp32, back in x's dtype.

    rotation: fp32 [T, K/2, 2], or [B, T, K/2, 2] where rows have positions of their own (see rope_table). A product of
    complex numbers is three kernels in place of nine; a compiler, which makes one of them, does not know these.
    """
    pairs, turns = x.float().unflatten(-1, (-1, 2)), rotation.unsqueeze(-3)
    if torch.compiler.is_compiling():
        (even, odd), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return rotated.flatten(-2).to(x.dtype)
