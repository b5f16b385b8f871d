"""Causal grouped-query attention: one function, three backends."""

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from genesis_ds.config import ModelConfig
from genesis_ds.errors import UserError
from genesis_ds.model.linear import Linear
from genesis_ds.model.rope import apply_rope, rope_table

INSTALL_FLASH_ATTN = "MAX_JOBS=4 pip install flash-attn --no-build-isolation"


@lru_cache(maxsize=1)
def flash_attn_func() -> Any | None:
    """The flash-attn package's function, None if it is not installed or does not load."""
    try:
        from flash_attn import flash_attn_func  # its 4.x namesake has a folder of that name but not the function
    except ImportError:
        return None
    return flash_attn_func


def resolve_backend(requested: str, device_type: str, dtype: torch.dtype) -> str:
    """`model.attention` with auto resolved. Raises UserError for a backend that is forced but cannot run."""
    reason = None
    if device_type != "cuda":
        reason = f"it does not run on {device_type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        reason = f"it does not take {dtype}"
    elif flash_attn_func() is None:
        reason = "its package is not installed"
    if requested == "auto":
        return "sdpa" if reason else "flash_attn"
    if requested == "flash_attn" and reason:
        raise UserError(f"model.attention: 'flash_attn': {reason}; use 'auto', or install it: {INSTALL_FLASH_ATTN}")
    return requested


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Causal attention. q [B, T, H, K], k and v [B, T, H_kv, K] with H a multiple of H_kv -> [B, T, H, K]."""
    if backend == "flash_attn":
        function = flash_attn_func()
        assert function is not None, "resolve_backend has checked that the package is there"
        return function(q, k, v, causal=True)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if backend == "sdpa_flash" else nullcontext():
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        deepnorm = config.initialisation == "deepnorm"
        gain, branch_gain = (1.0, config.init_beta) if deepnorm else (None, None)
        width, kv_width = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
        self.wq = Linear(config.dim, width, gain)
        self.wk = Linear(config.dim, kv_width, gain)
        self.wv = Linear(config.dim, kv_width, branch_gain)
        self.wo = Linear(width, config.dim, branch_gain)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        c = self.config
        table = rope_table(c.max_seq_len, c.head_dim, c.rope_theta, x.device)
        q = apply_rope(self.wq(x).unflatten(-1, (c.n_heads, c.head_dim)), table)
        k = apply_rope(self.wk(x).unflatten(-1, (c.kv_heads, c.head_dim)), table)
        v = self.wv(x).unflatten(-1, (c.kv_heads, c.head_dim))
        return self.wo(attend(q, k, v, resolve_backend(c.attention, x.device.type, q.dtype)).flatten(-2))
