"""What one micro-step of a run's model allocates and frees, by a trace of a shallow one whose middle is repeated."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape, VerseTasksConfig
from genesis_ds.config.resolve import SizedRun
from genesis_ds.memory.activations.repeat import NotPeriodicError, repeat, traced_depth
from genesis_ds.memory.activations.substitutes import Substitutes
from genesis_ds.memory.activations.trace import BACKWARD, META, Recorder
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step
from genesis_ds.memory.shapes import Parameter, are_alike, run_parameters, trunk_parameters
from genesis_ds.model.attention import torch_varlen
from genesis_ds.model.documents import Documents
from genesis_ds.model.multitask import LM, MultiTaskModel, build_model, keep_idle
from genesis_ds.model.own import OwnTrunk, meta_trunk
from genesis_ds.model.rope import rope_table
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.base import Task
from genesis_ds.tasks.lm import cross_entropy
from genesis_ds.tasks.load import task_class

GROWN = 4, 3
"""Tokens of documents padded to the longest of their group of lengths, to those that there are: up to twice (Bible
verses: 1.24 to 1.34)."""
INTEGERS: Any = {"dtype": torch.int64, "device": META}


TOKENS_PER_VERSE = {"bytes": 64, "bpe": 16}
"""What a micro-batch's verses have at least, on average: half of what whole Bibles have, 126-194 bytes by language, and
20-39 subwords of a vocabulary of 4,096-16,384."""


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
    """Of a task with a head of its own, in all rows."""


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

    @property
    def packs(self) -> bool:
        """Whether there is a kernel for packed documents (model/attention.py, attend)."""
        return self.gpu and self.dtype != torch.float32 and torch_varlen() is not None

    @property
    def heads_are_ours(self) -> bool:
        """Whether all heads are of the built-in tasks."""
        return all(task.__module__.startswith("genesis_ds.") for _, task in self.heads)

    def build(self) -> MultiTaskModel:
        """Return the model on the meta device."""
        # A forced backend cannot be had on this device; all of them keep the same.
        shape = replace(self.shape, attention="auto")
        trunk: Any = partial(OwnTrunk, path=self.own) if self.own else Transformer
        with META:
            heads = {name: task.head(shape.dim, self.options) for name, task in self.heads}
            model = build_model(shape, self.checkpointing, lambda: {n: h for n, h in heads.items() if h}, trunk)
        return model.to(self.dtype)


class _Documents(Documents):
    """Documents of which only the number is known."""

    @cached_property
    def by_length(self) -> tuple[list[Tensor], Tensor]:
        """One group of all documents, as if they were of one length."""
        grown = self.numbers.numel() * GROWN[0] // GROWN[1]
        group = torch.empty(self.n, -(-grown // self.n), **INTEGERS)
        return [group], torch.empty(self.numbers.numel(), **INTEGERS)


def micro_step(run: SizedRun, task: str, *, gpu: bool) -> MicroStep:
    """Return a micro-step of a task of the run, on a GPU or on a CPU.

    Raises UserError where a user's own model cannot be had.
    """
    whole, every = _traced(run, task, gpu), run.config.activation_checkpointing.every
    depth = traced_depth(run.model.n_layers, every)
    weights = run_parameters(run)
    if depth < run.model.n_layers and are_alike(weights, every):
        shallow = trace(replace(whole, shape=replace(run.model, n_layers=depth)))
        with suppress(NotPeriodicError):
            events = repeat(shallow.events, every, (run.model.n_layers - depth) // every)
            return replace(shallow, events=events, kept_bytes=shallow.kept_bytes + _buffer_bytes(whole))
    step = trace(whole)
    if step.problem:
        return MicroStep(weights_alone(weights, whole.dtype.itemsize), 0, step.problem)
    return replace(step, kept_bytes=step.kept_bytes + _buffer_bytes(whole))


def _traced(run: SizedRun, task: str, gpu: bool) -> Traced:
    batch = run.config.batch
    with_head = task in run.heads
    tokens = batch.micro_batch_size * batch.seq_len
    return Traced(
        shape=run.model,
        checkpointing=run.config.activation_checkpointing,
        batch=MicroBatch(
            size=batch.micro_batch_size,
            seq_len=batch.seq_len,
            task=task if with_head else LM,
            n_documents=-(-tokens // TOKENS_PER_VERSE[run.config.tokenizer.kind]) if with_head else 0,
        ),
        dtype=torch.bfloat16 if run.ds_config.precision == "bf16" else torch.float32,
        gpu=gpu,
        own=run.config.extensions.model,
        heads=tuple((name, task_class(run.config, name)) for name in run.heads),
        options=run.config.verse_tasks,
    )


def _buffer_bytes(traced: Traced) -> int:
    if traced.own is None:
        return 0
    buffers = meta_trunk(traced.own, traced.shape).buffers()
    return sum(buffer.numel() * min(buffer.itemsize, traced.dtype.itemsize) for buffer in buffers)


@lru_cache(maxsize=64)
def trace(traced: Traced) -> MicroStep:
    """Return the micro-step as a trace of the whole model has it.

    Where that fails and the model or a head is a user's own, the step has the problem in the place of events.
    """
    rope_table.cache_clear()  # its tables are a part of what is kept
    try:
        return _trace(traced)
    except Exception as error:
        if not traced.own and traced.heads_are_ours:
            raise
        return MicroStep((), problem=f"{type(error).__name__}: {error}".splitlines()[0])


def _trace(traced: Traced) -> MicroStep:
    model = traced.build()
    recorder = Recorder("logits and loss" if traced.batch.task == LM else "verse head", gpu=traced.gpu)
    recorder.ignore([*model.parameters(), *model.buffers()])
    units = [weight.module for weight in trunk_parameters(model.base)] + [f"heads.{task}" for task in model.heads]
    recorder.watch(model, dict.fromkeys(units))
    default_device = nullcontext() if traced.gpu else META
    with default_device, Substitutes(gpu=traced.gpu, packs=traced.packs), recorder:
        _run(model, traced.batch, recorder)
    return MicroStep(*recorder.finish())


def weights_alone(weights: Sequence[Parameter], itemsize: int) -> list[Step | str]:
    """Return the events of a micro-step as far as weights and their gradients tell."""
    modules = list(dict.fromkeys(weight.module for weight in weights))
    events: list[Step | str] = ["forward"]
    for module in modules:
        events += [Enter(module), Leave(module)]
    events.append("backward")
    for module in reversed(modules):
        events.append(Enter(module))
        for weight in weights:
            if weight.module == module:
                gradient = Alloc(f"gradient of {weight.name}", BACKWARD, itemsize * weight.numel)
                events += [gradient, Ready(weight.name), Free(gradient.key)]
        events.append(Leave(module))
    return events


def _run(model: MultiTaskModel, batch: MicroBatch, recorder: Recorder) -> None:
    recorder.events.append("forward")
    inputs, targets = _inputs(batch)
    outputs = model(batch.task, **inputs)
    # The loss on a head's output is not known; it keeps that output at least.
    own = cross_entropy(outputs.output, targets) if targets is not None else outputs.output.float().square().mean()
    loss = keep_idle(own, outputs.idle)
    del outputs, own
    with recorder.backward():
        # torch.autograd.backward itself is a function that a mode takes over, and a recomputation in it would not be.
        engine = torch.autograd.Variable._execution_engine  # type: ignore[attr-defined]
        engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), accumulate_grad=True)


def _inputs(batch: MicroBatch) -> tuple[dict[str, Any], Tensor | None]:
    """Return what the model takes, and the targets of language modelling."""
    tokens = torch.empty(batch.size, batch.seq_len, **INTEGERS)
    if not batch.n_documents:
        return {"tokens": tokens}, torch.empty_like(tokens)
    n = batch.n_documents
    # A row's padding is a document as well.
    boundaries = torch.empty(n + batch.size + 1, dtype=torch.int32, device=META)
    documents = _Documents(torch.empty_like(tokens), torch.empty_like(tokens), boundaries, n, longest=batch.seq_len)
    examples = torch.empty(max(1, n // 2), 2, **INTEGERS)  # a head takes any number of documents in an example
    return {"tokens": tokens, "documents": documents, "examples": examples}, None
