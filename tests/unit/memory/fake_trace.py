"""Live bytes of the real model during one forward and backward, without a GPU.

The model runs on fake 'cpu' tensors, which have a storage but no data. Each storage counts from the operator that
makes it until its last tensor is gone. What a CPU does otherwise than CUDA is replaced:
- F.scaled_dot_product_attention without a mask by the flash operator for CUDA or the math composite,
- Tensor.is_cuda by True where the machine has a kernel for packed documents, which takes the model to torch's,
- F.rms_norm by a function that keeps what CUDA's fused kernel keeps (the operator has no CPU kernel: it decomposes),
- save_on_cpu by a copy that counts as host memory (a fake CPU tensor is on the CPU already),
- autograd's sum of two gradients, out of place under any dispatch mode, by the in-place one, unless the first is a
  view (which holds its base too), as in input_buffer.cpp, can_accumulate_inplace.
Scalars, random state and other storages below a limit are not counted.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from unittest import mock

import torch
from helpers.built_in_heads import heads_of
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.memory.activations.blocks import Kernels, MicroBatch
from genesis_ds.memory.activations.operators import padded_to_groups
from genesis_ds.model import block
from genesis_ds.model.documents import Documents
from genesis_ds.model.multitask import LM, Outputs, build_model
from genesis_ds.model.rope import rope_table
from genesis_ds.tasks.lm import cross_entropy

GROUP_LENGTH = 91
"""Divides the padded tokens of the cases without a kernel for packed documents."""


@dataclass
class Trace:
    """Bytes over one micro-step, without weights and rope tables."""

    forward: list[int] = field(default_factory=list)
    """GPU bytes after each operator of the forward pass that allocates."""
    backward: list[int] = field(default_factory=list)
    stored: int = 0
    """GPU bytes between forward and backward."""
    host_peak: int = 0
    ready: list[str] = field(default_factory=list)
    """Parameters in the order in which their gradients were complete."""


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make while it is active."""

    def __init__(self, counted: list[torch.Tensor], ignored: list[torch.Tensor], smallest: int) -> None:
        super().__init__()
        self.smallest = smallest
        self.live = {"gpu": 0, "host": 0}
        self.trace = Trace()
        self.curve = self.trace.forward
        self.device = "gpu"
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in ignored:
            self._known.add(tensor.untyped_storage())
        for tensor in counted:
            self._count(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        sums_gradients = func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled()
        if sums_gradients and not args[0]._is_view():
            func = torch.ops.aten.add_.Tensor
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known or storage.nbytes() < self.smallest:
            return
        self._known.add(storage)
        self._change(self.device, storage.nbytes())
        weakref.finalize(storage, self._change, self.device, -storage.nbytes())
        if self.device == "gpu":
            self.curve.append(self.live["gpu"])

    def _change(self, device: str, nbytes: int) -> None:
        self.live[device] += nbytes
        self.trace.host_peak = max(self.trace.host_peak, self.live["host"])

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Storages made inside are host memory."""
        self.device = "host"
        yield
        self.device = "gpu"


class FusedRMSNorm(torch.autograd.Function):
    """What _fused_rms_norm_cuda and its backward allocate and keep (derivatives.yaml, _fused_rms_norm)."""

    @staticmethod
    def forward(ctx, x, weight):
        output, inverse = torch.empty_like(x), torch.empty(*x.shape[:-1], 1)
        ctx.save_for_backward(x, inverse, weight)
        return output

    @staticmethod
    def backward(ctx, gradient):
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _sdpa(kernels: Kernels):
    def flash(q, k, v, is_causal, enable_gqa):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]

    def math(q, k, v, is_causal, enable_gqa):
        function = torch.ops.aten._scaled_dot_product_attention_math
        return function(q, k, v, None, 0.0, is_causal, enable_gqa=enable_gqa)[0]

    return flash if kernels.flash_attention else math


def _save_on_host(live: LiveBytes):
    def pack(tensor):
        with live.on_host():
            return tensor.detach().clone()

    return lambda pin_memory: torch.autograd.graph.saved_tensors_hooks(pack, torch.clone)


def trace(
    model: ModelConfig,
    tasks: Sequence[str],
    batch: MicroBatch,
    dtype: torch.dtype,
    checkpointing: ActivationCheckpointingConfig,
    kernels: Kernels,
    smallest: int,
) -> Trace:
    """Run a forward pass of the model, its loss and the backward pass, and return what was alive when.

    tasks: those with a head. smallest: storages of fewer bytes are left out.
    """
    rope_table.cache_clear()  # it must neither give real tables to the fake model nor keep fake ones
    try:
        with FakeTensorMode(), mock.patch.object(F, "scaled_dot_product_attention", _sdpa(kernels)):
            return _trace(model, tasks, batch, dtype, checkpointing, kernels, smallest)
    finally:
        rope_table.cache_clear()


def _trace(model, tasks, batch, dtype, checkpointing, kernels, smallest) -> Trace:
    torch.set_default_dtype(dtype)  # Module.to() cannot change fake parameters
    try:
        multitask = build_model(model, checkpointing, lambda: heads_of(tasks, model.dim))
    finally:
        torch.set_default_dtype(torch.float32)
    inputs, tensors = _inputs(batch, kernels)
    tables = rope_table(model.max_seq_len, model.head_dim, model.rope_theta, torch.device("cpu"))
    live = LiveBytes(tensors, [*multitask.parameters(), *tables], smallest)
    for name, parameter in multitask.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: _hand_over(p, name, live.trace))
    rms_norm = (lambda x, shape, weight, eps: FusedRMSNorm.apply(x, weight)) if kernels.fused_rms_norm else F.rms_norm
    packed = batch.task != LM and kernels.varlen
    with (
        mock.patch.object(F, "rms_norm", rms_norm),
        mock.patch.object(block, "save_on_cpu", _save_on_host(live)),
        mock.patch.object(torch.Tensor, "is_cuda", True) if packed else nullcontext(),
        live,
    ):
        roots = _roots(batch, multitask(batch.task, **inputs), tensors[1])
        live.trace.stored = live.live["gpu"]
        live.curve = live.trace.backward
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    return live.trace


def _roots(batch: MicroBatch, outputs: Outputs, targets: torch.Tensor) -> list[torch.Tensor]:
    """The loss of language modelling, or a head's output, whose loss is left out; and what idle heads add."""
    idle = [] if outputs.idle is None else [0.0 * outputs.idle]
    if batch.task != LM:
        return [outputs.output, *idle]
    return [cross_entropy(outputs.output, targets), *idle]


def _inputs(batch: MicroBatch, kernels: Kernels) -> tuple[dict[str, object], list[torch.Tensor]]:
    """What the model takes, and the tensors in it."""
    tokens, *others = (torch.empty(batch.size, batch.seq_len, dtype=torch.int64) for _ in range(3))
    if batch.task == LM:
        return {"tokens": tokens}, [tokens, others[0]]
    n = batch.n_documents
    boundaries = torch.empty(n + batch.size + 1, dtype=torch.int32)
    examples = torch.arange(n).view(-1, 2 if batch.task == "coherence" else 3)
    documents = Documents(*others, boundaries, n, longest=batch.seq_len)
    tensors = [tokens, *others, boundaries, examples]
    if not kernels.varlen:
        grown = padded_to_groups(batch.size * batch.seq_len)
        group = torch.empty(grown // GROUP_LENGTH, GROUP_LENGTH, dtype=torch.int64)
        places = torch.empty(batch.size * batch.seq_len, dtype=torch.int64)
        documents.__dict__["by_length"] = [group], places  # fake boundaries have no lengths to make it of
        tensors += [group, places]
    return {"tokens": tokens, "documents": documents, "examples": examples}, tensors


def _hand_over(parameter: torch.nn.Parameter, name: str, into: Trace) -> None:
    parameter.grad = None
    into.ready.append(name)
