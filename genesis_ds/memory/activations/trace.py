"""A micro-step of a run's model as a trace of it tells."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from genesis_ds.config import (
    ActivationCheckpointingConfig,
    DistillConfig,
    ModelShape,
    RegularisationConfig,
    VerseTasksConfig,
)
from genesis_ds.memory.activations.recorder import META, Recorder
from genesis_ds.memory.activations.substitutes import GpuFunctions
from genesis_ds.memory.deepspeed.timeline import Step
from genesis_ds.memory.shapes import Parameter, parameters, trunk_parameters
from genesis_ds.model.documents import Documents
from genesis_ds.model.multitask import LM, MultiTaskModel, TokenHead, build_model, keep_idle
from genesis_ds.model.noise import Noise
from genesis_ds.model.own import OwnTrunk
from genesis_ds.model.rope import rope_table
from genesis_ds.model.transformer import Transformer
from genesis_ds.model.trunk import MakeTrunk
from genesis_ds.tasks.base import Task
from genesis_ds.tasks.distillation import distilled
from genesis_ds.tasks.lm import cross_entropy

GROWN = 4, 3
"""Tokens of documents padded to the longest of their group of lengths, to those that there are: up to twice (Bible
verses: 1.24 to 1.34)."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class MicroStep:
    """A forward pass, the loss and the backward pass.

    Weights and .grad buffers are the engine's and are not here. The gradient that autograd makes of a weight is; it is
    alive at the parameter's Ready and freed right after it. So an engine that copies it into a bucket does that at
    Ready. One that keeps it as .grad (AccumulateGrad steals it, without a copy) allocates its own right after that
    Free. A module's Enter and Leave come once in the forward and once in the backward, where they enclose the
    recomputation; with tied embeddings base.tok_embeddings is entered twice. Every head's weights are Ready in every
    micro-step, whatever the task. At the end everything is freed.
    """

    events: Sequence[Step | str]
    """Of which the strings "forward" and "backward" begin a phase."""
    kept_bytes: int = 0
    """What the model makes at its first forward pass, and buffers of a user's own model: both stay on the device."""
    problem: str = ""
    """Why activations are not counted; empty: they are."""


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-step works on."""

    size: int
    """B."""
    seq_len: int
    """T."""
    task: str = LM
    n_documents: int = 0
    """Of a task with a head on documents, in all rows."""
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)


@dataclass(frozen=True)
class Traced:
    """What a trace depends on."""

    shape: ModelShape
    checkpointing: ActivationCheckpointingConfig
    batch: MicroBatch
    dtype: torch.dtype
    """Of weights and activations; what the model computes in fp32 in every run has 4 bytes."""
    gpu: bool
    own: str | None = None
    """extensions.model."""
    heads: tuple[tuple[str, type[Task]], ...] = ()
    """By task."""
    options: VerseTasksConfig = field(default_factory=VerseTasksConfig)
    taught: int = 0
    """Rows of which a teacher's probabilities are there, which are counted, but not how they are made."""
    kept_inside: int = 0
    """Bytes that each block keeps besides its input, where it is compiled and recomputes the rest."""

    @property
    def packs(self) -> bool:
        """Whether there is a kernel for packed documents (model/attention.py, attend)."""
        return self.gpu and self.dtype != torch.float32

    @property
    def heads_are_ours(self) -> bool:
        """Whether all heads are of the built-in tasks."""
        return all(task.__module__.startswith("genesis_ds.") for _, task in self.heads)

    @property
    def device(self) -> torch.device:
        """The device of the trace."""
        return META if self.gpu else CPU

    def make_heads(self, device: torch.device) -> dict[str, nn.Module]:
        """Return the heads on a device."""
        with device:
            heads = {name: task.head(self.shape.dim, self.options) for name, task in self.heads}
        return {name: head for name, head in heads.items() if head is not None}

    def build(self) -> MultiTaskModel:
        """Return the model on the device of the trace."""
        shape = replace(self.shape, attention="auto")  # another cannot be had there, and all keep the same
        make_trunk: MakeTrunk = partial(OwnTrunk, path=self.own) if self.own else Transformer
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)  # Module.to() cannot change fake parameters
        try:
            with self.device:
                model = build_model(shape, self.checkpointing, lambda: self.make_heads(self.device), make_trunk)
        finally:
            torch.set_default_dtype(default)
        if self.kept_inside:
            for block in model.base.layers:
                block.forward = partial(_keep_inside, block.forward, self.kept_inside)
        return model

    def target_shape(self) -> tuple[int, int]:
        """Return the shape of the targets: that of the tokens, or of the states that a head on tokens gives."""
        size, seq_len = self.batch.size, self.batch.seq_len
        head = self.make_heads(META).get(self.batch.task)
        if not isinstance(head, TokenHead):
            return size, seq_len
        return size, head(torch.empty(size, seq_len, self.shape.dim, device=META)).shape[1]

    def parameters(self) -> list[Parameter]:
        """Return the model's parameters."""
        return parameters(self.shape, self.make_heads(META), self.own)


class _Keep(torch.autograd.Function):
    """Passes a tensor on, and keeps so many bytes until its gradient has come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, nbytes: int) -> Tensor:
        ctx.kept = x.new_empty(nbytes, dtype=torch.uint8)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.kept = None
        return gradient, None


def _keep_inside(forward: Callable[..., Tensor], nbytes: int, x: Tensor, **named: Any) -> Tensor:
    kept: Tensor = _Keep.apply(x, nbytes)  # type: ignore[no-untyped-call]
    return forward(kept, **named)


class _Documents(Documents):
    """Documents of which only the number is known."""

    @cached_property
    def by_length(self) -> tuple[list[Tensor], Tensor]:
        """One group of all documents, as if they were of one length."""
        grown = self.numbers.numel() * GROWN[0] // GROWN[1]
        group = self.numbers.new_empty(self.n, -(-grown // self.n))
        return [group], self.numbers.new_empty(self.numbers.numel())


@lru_cache(maxsize=64)
def trace(traced: Traced) -> MicroStep:
    """Return the micro-step as a trace of the whole model has it.

    Where that fails and the model or a head is a user's own, the step has the problem in the place of events.
    """
    rope_table.cache_clear()  # its tables are a part of what is kept, and fake ones must not stay
    try:
        return _trace(traced)
    except Exception as error:
        if not traced.own and traced.heads_are_ours:
            raise
        return MicroStep((), problem=f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        rope_table.cache_clear()


def _trace(traced: Traced) -> MicroStep:
    target_shape = traced.target_shape()
    # Fake tensors take a CPU's paths; those of a GPU abort a torch without CUDA, and meta tensors are faster.
    with nullcontext() if traced.gpu else FakeTensorMode():
        model = traced.build()
        recorder = Recorder("verse head" if traced.batch.n_documents else "logits and loss", gpu=traced.gpu)
        recorder.ignore([*model.parameters(), *model.buffers()])
        units = [weight.module for weight in trunk_parameters(model.base)] + [f"heads.{task}" for task in model.heads]
        recorder.watch(model, dict.fromkeys(units))
        with GpuFunctions(packs=traced.packs) if traced.gpu else nullcontext(), recorder:
            _run(model, traced, recorder, target_shape)
    return MicroStep(*recorder.finish())


def _run(model: MultiTaskModel, traced: Traced, recorder: Recorder, target_shape: tuple[int, int]) -> None:
    recorder.events.append("forward")
    batch = traced.batch
    inputs, targets = _inputs(batch, traced.device, target_shape)
    if batch.regularisation.is_on:
        n_layers, dropout = len(model.base.layers), batch.regularisation.dropout
        inputs["noise"] = Noise.empty(n_layers, batch.size, dropout, traced.device)
    outputs = model(batch.task, **inputs)
    # The loss on a head's output is not known; it keeps that output at least.
    own = cross_entropy(outputs.output, targets) if targets is not None else outputs.output.float().square().mean()
    if traced.taught:
        taught = outputs.output[: traced.taught]
        teacher = torch.empty_like(taught, dtype=torch.float32)
        own, _ = distilled(own, taught, teacher, DistillConfig())
        del taught
    loss = keep_idle(own, outputs.idle)
    del outputs, own
    with recorder.backward():
        # torch.autograd.backward itself is a function that a mode takes over, and a recomputation in it would not be.
        engine = torch.autograd.Variable._execution_engine
        engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), accumulate_grad=True)


def _inputs(
    batch: MicroBatch, device: torch.device, target_shape: tuple[int, int]
) -> tuple[dict[str, Any], Tensor | None]:
    """Return what the model takes, and the targets where logits are what it gives."""
    tokens = torch.empty(batch.size, batch.seq_len, dtype=torch.int64, device=device)
    if not batch.n_documents:
        targets = tokens.new_empty(target_shape)
        return {"tokens": tokens, "targets": targets}, targets
    n = batch.n_documents
    # A row's padding is a document as well.
    boundaries = torch.empty(n + batch.size + 1, dtype=torch.int32, device=device)
    documents = _Documents(torch.empty_like(tokens), torch.empty_like(tokens), boundaries, n, longest=batch.seq_len)
    examples = tokens.new_empty(max(1, n // 2), 2)  # a head takes any number of documents in an example
    return {"tokens": tokens, "documents": documents, "examples": examples}, None
