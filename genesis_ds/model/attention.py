"""Causal grouped-query attention: one function, three backends, over whole rows or the documents packed into them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.cache import LayerCache
from genesis_ds.model.documents import Documents
from genesis_ds.model.linear import Linear
from genesis_ds.model.rope import apply_rope

INSTALL_FLASH_ATTN = "MAX_JOBS=4 pip install flash-attn --no-build-isolation"
KERNELS = {
    "flash_attn::_flash_attn_forward": "FlashAttention-2 (flash-attn package)",
    "flash_attn::_flash_attn_varlen_forward": "FlashAttention-2, packed (flash-attn package)",
    "torch_attn::_varlen_attn": "FlashAttention-2, packed (torch varlen)",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash for CPU (torch SDPA)",
    "aten::_scaled_dot_product_flash_attention": "FlashAttention-2 (torch SDPA)",
    "aten::_scaled_dot_product_cudnn_attention": "cuDNN (torch SDPA)",
    "aten::_scaled_dot_product_efficient_attention": "memory-efficient (torch SDPA)",
    "aten::_scaled_dot_product_attention_math": "math (torch SDPA; not a fused kernel)",
}
"""The operators that attention ends in, as a profile names them, most specific first. torch 2.13, flash-attn 2.8.3."""


@lru_cache(maxsize=1)
def flash_attn() -> Any | None:
    """The flash-attn package, None if it is not installed or does not load."""
    try:
        import flash_attn
        from flash_attn import flash_attn_varlen_func  # noqa: F401 (its 4.x namesake has the folder but not this)
    except ImportError:
        return None
    return flash_attn


def resolve_backend(requested: str, device_type: str, dtype: torch.dtype) -> str:
    """`model.attention` with auto resolved. Raises UserError for a backend that is forced but cannot run."""
    reason = None
    if device_type != "cuda":
        reason = f"it does not run on {device_type}"
    elif dtype not in (torch.bfloat16, torch.float16):
        reason = f"it does not take {dtype}"
    elif flash_attn() is None:
        reason = "its package is not installed"
    if requested == "auto":
        return "sdpa" if reason else "flash_attn"
    if requested == "flash_attn" and reason:
        raise UserError(f"model.attention: 'flash_attn': {reason}; use 'auto', or install it: {INSTALL_FLASH_ATTN}")
    return requested


def prepare_for_compiling() -> None:
    """Tell torch.compile what to leave out of a block's graph, and what to ask once for each.

    The functions are not marked where they stand, as that would import the compiler, which takes seconds.
    """
    global resolve_backend, _attend_within, _package_attend
    resolve_backend = torch.compiler.assume_constant_result(resolve_backend)
    _attend_within = torch.compiler.disable(_attend_within)
    _package_attend = torch.compiler.disable(_package_attend)


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str, documents: Documents | None = None) -> Tensor:
    """Causal attention, within each document where there are any.

    q [B, T, H, K], k and v [B, T, H_kv, K] with H a multiple of H_kv -> [B, T, H, K].
    """
    if documents is not None:
        return _attend_within(q, k, v, backend, documents)
    if backend == "flash_attn":
        return _package_attend(q, k, v)
    with _kernels(backend):
        return _sdpa(q, k, v)


def attend_after(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    """Causal attention of the newest T of S tokens: q [B, T, H, K], k and v [B, S, H_kv, K] -> [B, T, H, K]."""
    n, n_seen = q.shape[1], k.shape[1]
    if n == n_seen or backend == "flash_attn":  # whose mask is aligned to the last token
        return attend(q, k, v, backend)
    mask = None if n == 1 else torch.ones(n, n_seen, dtype=torch.bool, device=q.device).tril(n_seen - n)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)


def _attend_within(q: Tensor, k: Tensor, v: Tensor, backend: str, documents: Documents) -> Tensor:
    """Attend within each document.

    It is not compiled: each batch has other documents, and a graph that is made again for new shapes rounds otherwise.
    """
    if backend == "flash_attn":
        package = flash_attn()
        assert package is not None, "resolve_backend has checked that the package is there"
        return _attend_packed(package.flash_attn_varlen_func, q, k, v, documents, causal=True)
    if q.is_cuda and q.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        if (repeats := q.shape[2] // k.shape[2]) > 1:
            k, v = (x.repeat_interleave(repeats, dim=2) for x in (k, v))
        return _attend_packed(varlen_attn, q, k, v, documents, window_size=(-1, 0))
    with _kernels(backend):
        return _attend_by_length(q, k, v, documents)


def _package_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    package = flash_attn()
    assert package is not None, "resolve_backend has checked that the package is there"
    attended: Tensor = package.flash_attn_func(q, k, v, causal=True)
    return attended


def _kernels(backend: str) -> AbstractContextManager[None]:
    """Return what SDPA is called in: torch's own choice of a kernel, or FlashAttention alone."""
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if backend == "sdpa_flash" else nullcontext()


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)


def _attend_by_length(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """By SDPA on documents of similar length at a time; a mask over whole rows would cost a multiple of it."""
    groups, places = documents.by_length
    attended = [_sdpa(*(x.flatten(0, 1)[group] for x in (q, k, v))).flatten(0, 1) for group in groups]
    in_place: Tensor = torch.cat(attended)[places].unflatten(0, documents.numbers.shape)
    return in_place


def _attend_packed(
    function: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, documents: Documents, **options: Any
) -> Tensor:
    """By a kernel that takes the documents of all rows one after another, padding among them."""
    where, longest = documents.boundaries, documents.longest
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    attended: Tensor = function(q, k, v, where, where, longest, longest, **options)
    in_rows: Tensor = attended.unflatten(0, documents.numbers.shape)
    return in_rows


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: ModelShape) -> None:
        super().__init__()
        self.config = config
        deepnorm = config.initialisation == "deepnorm"
        gain, branch_gain = (1.0, config.init_beta) if deepnorm else (None, None)
        width, kv_width = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
        self.wq = Linear(config.dim, width, gain)
        self.wk = Linear(config.dim, kv_width, gain)
        self.wv = Linear(config.dim, kv_width, branch_gain)
        self.wo = Linear(width, config.dim, branch_gain)

    def forward(
        self, x: Tensor, rotation: Tensor, documents: Documents | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]. The tokens of x follow those in the cache, which takes them up."""
        c = self.config
        q = apply_rope(self.wq(x).unflatten(-1, (c.n_heads, c.head_dim)), rotation)
        k = apply_rope(self.wk(x).unflatten(-1, (c.kv_heads, c.head_dim)), rotation)
        v = self.wv(x).unflatten(-1, (c.kv_heads, c.head_dim))
        backend = resolve_backend(c.attention, x.device.type, q.dtype)
        if cache is None:
            attended = attend(q, k, v, backend, documents)
        else:
            k, v = cache.extend(k, v)
            attended = attend_after(q, k, v, backend)
        out: Tensor = self.wo(attended.flatten(-2))
        return out
