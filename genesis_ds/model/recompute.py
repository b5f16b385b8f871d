"""What a part of the model computes again in the backward pass instead of keeping it (`activation_checkpointing`)."""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from genesis_ds.model.attention import KERNELS

PRODUCTS = {"aten::mm", *KERNELS}
"""Operators whose results are dear to compute again: matrix products and attention."""


def recompute(function: Callable[..., Tensor], *inputs: Tensor, offload: bool = False) -> Tensor:
    """function(*inputs), keeping the inputs alone (on the host if offload) and computing the rest again."""
    with save_on_cpu(pin_memory=inputs[0].is_cuda) if offload else nullcontext():
        # The decoder draws no random numbers, it is handed them (noise.py): there is no RNG state to keep and restore.
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out


def recompute_elementwise(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), keeping the inputs and the results of PRODUCTS, and computing the rest again."""
    contexts = _compiled_contexts if torch.compiler.is_compiling() else _contexts
    out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return out


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return what a function is called in, first and again.

    torch's own modes want the same operators both times, and the gathers of ZeRO-3 are others.
    """
    results: deque[Any] = deque()
    return _Keep(results), _Take(results)


class _Keep(TorchDispatchMode):
    """Keeps the results of PRODUCTS."""

    def __init__(self, results: deque[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results = results

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in PRODUCTS:
            self.results.append(tree_map_only(Tensor, Tensor.detach, result))
        return result


class _Take(_Keep):
    """Gives them back in the same order, in the place of calling the operators again."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.results.popleft() if func._schema.name in PRODUCTS else func(*args, **(kwargs or {}))


def _compiled_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return those that torch's compiler knows."""
    contexts: tuple[AbstractContextManager[Any], AbstractContextManager[Any]] = create_selective_checkpoint_contexts(
        _policy
    )
    return contexts


def _policy(context: Any, func: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = func._schema.name in PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
