"""What a GPU runs where the meta device, on which the model is traced for it, would run something else."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FP32 = 4


class GpuFunctions(TorchFunctionMode):
    """Takes calls of torch's functions to the operators that a GPU runs where the meta device has others.

    Attention without a mask is FlashAttention-2 (flash-attn or torch's SDPA: both keep q, k, v, the output and
    log-sums), RMSNorm is one kernel, and Tensor.is_cuda is True where there is a kernel for packed documents. Attention
    with a mask of the caller's own is what torch calls math: it keeps the probabilities.
    """

    def __init__(self, *, packs: bool) -> None:
        """packs: whether there is a kernel for packed documents."""
        super().__init__()
        self._instead: dict[Any, Callable[..., Any]] = {F.scaled_dot_product_attention: _flash, F.rms_norm: _rms_norm}
        if packs:
            self._instead |= {torch.Tensor.is_cuda.__get__: lambda _: True}  # type: ignore[attr-defined]

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._instead.get(func, func)(*args, **(kwargs or {}))


def _flash(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any
) -> Any:
    if attn_mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, **options)
    is_causal, scale = options.get("is_causal", False), options.get("scale")
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]


def _rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Any:
    if weight is None or weight.dtype != x.dtype:
        return F.rms_norm(x, normalized_shape, weight, eps)
    return _FusedRMSNorm.apply(x, weight)  # type: ignore[no-untyped-call]


class _FusedRMSNorm(torch.autograd.Function):
    """What _fused_rms_norm_cuda and its backward allocate and keep (torch 2.13, derivatives.yaml: _fused_rms_norm)."""

    @staticmethod
    @torch.enable_grad()  # a trace tells a recomputation by it
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        output, inverse = torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(x, inverse, weight)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def flash_workspace(name: str, args: tuple[Any, ...]) -> list[int]:
    """Return the bytes of what flash attention's backward makes inside itself on a GPU; nothing for other operators.

    From flash_api.cpp, mha_bwd and mha_varlen_bwd: a query gradient in fp32, with K rounded up to 32, and a sum for
    each row and head. Rows are T rounded up to 128, and packed, 128 more after each document. With fewer key/value
    heads their gradients for all H heads come on top. No operator returns these.
    """
    if name == "aten::_scaled_dot_product_flash_attention_backward":
        q, k = args[1], args[2]
        batch, heads, time, width = q.shape
        rows, fewer = batch * _up(time, 128), k.shape[1] < heads
    elif name == "torch_attn::_varlen_attn_backward":
        q, k, boundaries = args[1], args[2], args[6]
        tokens, heads, width = q.shape
        rows, fewer = tokens + 128 * (len(boundaries) - 1), k.shape[1] < heads
    else:
        return []
    whole = [q.numel() * q.element_size()] * 2 if fewer else []
    return [FP32 * heads * rows * _up(width, 32), FP32 * heads * rows, *whole]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
