"""What one micro-step of a run allocates and frees, by a trace of a shallow model whose middle is repeated."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

import torch

from genesis_ds.config import ActivationCheckpointingConfig
from genesis_ds.config.resolve import SizedRun
from genesis_ds.memory.activations.compiled import kept_bytes
from genesis_ds.memory.activations.recorder import BACKWARD
from genesis_ds.memory.activations.repeat import NotPeriodicError, repeat, traced_depth
from genesis_ds.memory.activations.trace import MicroBatch, MicroStep, Traced, trace
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step
from genesis_ds.memory.shapes import Parameter, are_alike
from genesis_ds.model.multitask import LM
from genesis_ds.model.own import meta_trunk
from genesis_ds.tasks.load import reads_tokens, task_class

TOKENS_PER_VERSE = {"bytes": 64, "char": 28, "bpe": 16}
"""What a micro-batch's verses have at least, on average: half of what whole Bibles have, 126-194 bytes by language,
56-132 characters, and 20-39 subwords of a vocabulary of 4,096-16,384."""


def micro_step(run: SizedRun, task: str, *, gpu: bool) -> MicroStep:
    """Return a micro-step of a task of the run, on a GPU or on a CPU.

    Raises UserError where a user's own model cannot be had.
    """
    return _micro_step(_traced(run, task, gpu))


@lru_cache(maxsize=4)
def _micro_step(whole: Traced) -> MicroStep:
    """Return the micro-step of a model of any depth."""
    n_layers, every = whole.shape.n_layers, whole.checkpointing.every
    depth = traced_depth(n_layers, every)
    weights = whole.parameters()
    if depth < n_layers and are_alike(weights, every):
        shallow = trace(replace(whole, shape=replace(whole.shape, n_layers=depth)))
        with suppress(NotPeriodicError):
            events = repeat(shallow.events, every, (n_layers - depth) // every)
            return replace(shallow, events=events, kept_bytes=shallow.kept_bytes + _buffer_bytes(whole))
    step = trace(whole)
    if step.problem:
        return MicroStep(weights_alone(weights, whole.dtype.itemsize), 0, step.problem)
    return replace(step, kept_bytes=step.kept_bytes + _buffer_bytes(whole))


def keeps_within_budget(run: SizedRun, gpu: bool) -> bool:
    """Return whether compiled blocks choose what they keep (`compile.activation_memory_budget`) on a GPU or a CPU."""
    config = run.config
    compiles = config.compiles_on("cuda" if gpu else "cpu") and config.extensions.model is None
    return compiles and config.activation_checkpointing.mode == "none" and config.compile.activation_memory_budget < 1


def _traced(run: SizedRun, task: str, gpu: bool) -> Traced:
    batch = run.config.batch
    with_head = task in run.heads
    of_documents = with_head and not reads_tokens(run.config, task)
    rows = batch.micro_batch_size * (run.config.masking.readings if task == LM else 1)
    checkpointing, kept_inside = run.config.activation_checkpointing, 0
    dtype = torch.bfloat16 if run.ds_config.precision == "bf16" else torch.float32
    if keeps_within_budget(run, gpu):
        # The backward pass of a compiled block is planned as if all of it were computed again, which is an upper bound.
        checkpointing = ActivationCheckpointingConfig("block")
        kept_inside = kept_bytes(
            run.model,
            rows=rows,
            seq_len=batch.seq_len,
            dtype=dtype,
            packed=of_documents,
            regularisation=run.config.regularisation,
            budget=run.config.compile.activation_memory_budget,
        )
    tokens = batch.micro_batch_size * batch.seq_len
    return Traced(
        shape=run.model,
        checkpointing=checkpointing,
        batch=MicroBatch(
            size=rows,
            seq_len=batch.seq_len,
            task=task if with_head else LM,
            n_documents=-(-tokens // TOKENS_PER_VERSE[run.config.tokenizer.kind]) if of_documents else 0,
            regularisation=run.config.regularisation,
        ),
        dtype=dtype,
        gpu=gpu,
        own=run.config.extensions.model,
        heads=tuple((name, task_class(run.config, name)) for name in run.heads),
        options=run.config.verse_tasks,
        taught=batch.micro_batch_size if task == LM and run.config.distill.is_on else 0,
        kept_inside=kept_inside,
    )


def _buffer_bytes(traced: Traced) -> int:
    if traced.own is None:
        return 0
    buffers = meta_trunk(traced.own, traced.shape).buffers()
    return sum(buffer.numel() * min(buffer.itemsize, traced.dtype.itemsize) for buffer in buffers)


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
