"""Causal grouped-query attention: one function, three backends, and the proof of the kernel that really runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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

# The profiler's operator names, most specific first. Facts: torch 2.13 and flash-attn 2.8.3.
KERNELS = {
    "flash_attn::_flash_attn_forward": "FlashAttention-2 (flash-attn package)",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash for CPU (torch SDPA)",
    "aten::_scaled_dot_product_flash_attention": "FlashAttention-2 (torch SDPA)",
    "aten::_scaled_dot_product_cudnn_attention": "cuDNN (torch SDPA)",
    "aten::_scaled_dot_product_efficient_attention": "memory-efficient (torch SDPA)",
    "aten::_scaled_dot_product_attention_math": "math (torch SDPA; not a fused kernel)",
}


def flash_attn_func() -> Any | None:
    """The flash-attn package's function, None if it is not installed or does not load."""
    try:
        from flash_attn import flash_attn_func  # its 4.x namesake has a folder of that name but not the function
    except ImportError:
        return None
    return flash_attn_func


def resolve_backend(requested: str, device_type: str) -> str:
    """`model.attention` with auto resolved. Raises UserError for a backend that is forced but cannot run."""
    available = device_type == "cuda" and flash_attn_func() is not None
    if requested == "auto":
        return "flash_attn" if available else "sdpa"
    if requested == "flash_attn" and not available:
        reason = "its package is not installed" if device_type == "cuda" else f"it does not run on {device_type}"
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
        return self.wo(attend(q, k, v, resolve_backend(c.attention, x.device.type)).flatten(-2))


@dataclass(frozen=True)
class AttentionProof:
    """What a profile of one attention call showed."""

    backend: str
    kernel: str
    max_error: float
    """Largest difference from fp32 math attention, forward and input gradients, relative to the largest value."""


@contextmanager
def _without_stderr() -> Iterator[None]:
    """torch's profiler writes its own start and stop to file descriptor 2, whatever its log level."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def prove_attention(config: ModelConfig, device: torch.device, dtype: torch.dtype, seq_len: int) -> AttentionProof:
    """Run one attention forward and backward at the model's head shape and report which kernel did it.

    Raises UserError when a forced backend cannot run this shape.
    """
    backend = resolve_backend(config.attention, device.type)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, seq_len, heads, config.head_dim) for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    try:
        with _without_stderr(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            output = attend(inputs[0], inputs[1], inputs[2], backend)
            output.sum().backward()
    except RuntimeError as error:
        raise UserError(
            f"model.attention: '{backend}' cannot run head width {config.head_dim} in {dtype} on {device.type} "
            f"({str(error).splitlines()[0]}); use 'auto'"
        ) from error
    ran = {event.key for event in profile.key_averages()}
    kernel = next((label for name, label in KERNELS.items() if name in ran), f"unknown ({backend})")
    exact = [x.detach().float().requires_grad_() for x in inputs]
    with sdpa_kernel(SDPBackend.MATH):
        expected = attend(exact[0], exact[1], exact[2], "sdpa")
    expected.sum().backward()
    gradients = ([x.grad for x in tensors if x.grad is not None] for tensors in (inputs, exact))
    pairs = [(output.detach(), expected.detach()), *zip(*gradients, strict=True)]
    max_error = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)
    return AttentionProof(backend, kernel, max_error)
