"""Training loops to measure side by side: ours, and those that a user could write or take in its place.

All train language modelling alone, on the same text, with the same model, rows and rows a step:

    as_is          as people write it: bf16 weights, math attention, one padded verse a row, AdamW as it comes
    best           as good as a simple one gets: fp32 weights and autocast, fused attention, packed rows, fused AdamW
    best_compiled  the same with each block compiled by torch.compile, where the run compiles
    accelerate     Hugging Face's accelerate, as its guide has it, on packed rows with fused attention and AdamW

On a CPU, where bf16 is slow, all of it is in fp32.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from genesis_ds import ds_config
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.config.resolve import SizedRun, resolve_steps
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.ranks import Ranks
from genesis_ds.engine.unfinished import destroy_unfinished
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM, MultiTaskModel, build_model
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.lm import LanguageModelling, as_batch
from genesis_ds.tasks.noise import NoiseSource
from genesis_ds.training.preparation import prepare_operations
from genesis_ds.training.run_length import run_length
from genesis_ds.training.state import TrainingState
from genesis_ds.training.tasks import RunTasks, open_tasks
from genesis_ds.training.trainer import Trainer

KINDS = ("plain", "accelerate")
"""What our loop can be measured against."""
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Variables by which accelerate takes a single process for one of several, and wraps its model for them."""


class Loop(Protocol):
    """Something that trains."""

    def step(self) -> int:
        """Take one optimizer step; return its tokens that are not padding."""
        ...


BuildLoop = Callable[[], AbstractContextManager[Loop]]
"""Makes a loop, which is there for as long as its context."""


class PaddedVerses(LanguageModelling):
    """Language modelling as a simple loop has it: one verse a row, the rest of the row padding, which is no target."""

    def __init__(self, token_set: TokenSet, seq_len: int, seed: int) -> None:
        super().__init__(token_set, seq_len, seed)
        self.verses = VerseTable(token_set, ["train"], seq_len)

    def batch(self, positions: Any) -> Batch:
        """Return verses in a fixed order that is none of the text's."""
        rows = np.full((len(positions), self.seq_len + 1), IGNORE)
        for row, position in enumerate(positions):
            ids = self.verses.tokens(position * 7919 % len(self.verses))
            rows[row, : len(ids)] = ids
        batch = as_batch(rows)
        batch.inputs["tokens"].clamp_(min=0)
        return dataclasses.replace(batch, n_tokens=int((rows != IGNORE).sum()))


class PlainLoop:
    """A training loop as one writes it without a framework."""

    def __init__(
        self,
        run: RunConfig,
        model: nn.Module,
        *,
        optimizer: Optimizer,
        task: LanguageModelling,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        kernels: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """autocast: what the forward pass runs in; kernels: what the whole step does."""
        self.run, self.model, self.optimizer, self.task = run, model, optimizer, task
        self.autocast, self.kernels, self.device, self.position = autocast, kernels, device, 0
        self.noise = NoiseSource(run)

    def micro_batches(self) -> Iterator[Batch]:
        """Yield the micro-batches of the next step."""
        at_once = self.run.batch.micro_batch_size
        for _ in range(self.run.batch.global_batch_size // at_once):
            positions = range(self.position, self.position + at_once)
            yield self.noise.add(self.task.batch(positions), LM, positions).to(self.device)
            self.position += at_once

    def step(self) -> int:
        with self.kernels():
            batches = list(self.micro_batches())
            for batch in batches:
                with self.autocast():
                    loss, _ = self.task.loss(self.model(LM, **batch.inputs).output, batch)
                (loss / len(batches)).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.run.optimizer.gradient_clipping)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return sum(batch.n_tokens for batch in batches)


class AccelerateLoop(PlainLoop):
    """The loop of accelerate's guide."""

    def __init__(self, accelerator: Any, run: RunConfig, model: nn.Module, **of_plain: Any) -> None:
        super().__init__(run, model, **of_plain)
        self.accelerator = accelerator
        self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)

    def step(self) -> int:
        n_tokens = 0
        for batch in self.micro_batches():
            with self.accelerator.accumulate(self.model):
                loss, _ = self.task.loss(self.model(LM, **batch.inputs).output, batch)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.run.optimizer.gradient_clipping)
                self.optimizer.step()
                self.optimizer.zero_grad()
            n_tokens += batch.n_tokens
        return n_tokens


class OurLoop:
    """Our trainer and engine, without hooks."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def step(self) -> int:
        return self.trainer.step().n_tokens


def bare_trainer(config: RunConfig, resolved: ds_config.Resolved, tasks: RunTasks, ranks: Ranks) -> Trainer:
    """Return the trainer of a run at its beginning, for steps one by one: no run directory, hooks or checkpoints."""
    sized = SizedRun(config, fit_vocabulary(config), resolved, tasks=tuple(tasks.tasks), heads=tasks.heads)
    n_steps, steps_per_epoch = run_length(config, tasks)
    run = resolve_steps(sized, n_steps, steps_per_epoch)
    prepare_operations(resolved)
    return Trainer(
        run,
        engine=Engine.build(run, ranks=ranks, device=distributed.device(ranks)),
        tasks=tasks,
        hooks={},
        checkpoints=CheckpointManager(Path(), KeepPolicy(), ranks, identity={}),  # writes nothing: `step` does not save
        state=TrainingState(),
    )


@contextmanager
def our_loop(run: RunConfig, resolved: ds_config.Resolved, data: Text, ranks: Ranks) -> Iterator[Loop]:
    """Our loop for a turn; afterwards its engine is gone."""
    try:
        trainer = bare_trainer(run, resolved, open_tasks(run, data, ranks), ranks)
    except BaseException:
        destroy_unfinished()
        raise
    try:
        yield OurLoop(trainer)
    finally:
        trainer.engine.destroy()


def rivals(kind: str, run: RunConfig, data: Text, device: torch.device) -> dict[str, BuildLoop]:
    """Return the loops of a kind by name. Raises UserError for accelerate where it is not installed."""
    loop = partial(plain_loop, run, data, device)
    if kind == "accelerate":
        require_accelerate()
        return {"accelerate": partial(accelerate_loop, run, data, device)}
    compiled = {"best_compiled": partial(loop, is_best=True, compiles=True)} if run.compiles_on(device.type) else {}
    return {"as_is": partial(loop, is_best=False), "best": partial(loop, is_best=True), **compiled}


def require_accelerate() -> None:
    """Raise UserError where accelerate cannot be imported."""
    try:
        importlib.import_module("accelerate")
    except ImportError as error:
        raise UserError("--against: accelerate is not installed; pip install accelerate") from error


@contextmanager
def plain_loop(
    run: RunConfig, data: Text, device: torch.device, *, is_best: bool, compiles: bool = False
) -> Iterator[Loop]:
    """The simple loop for a turn: as good as it gets, or as people write it."""
    model, on_gpu = _model(run, device), device.type == "cuda"
    if compiles:
        for block in model.base.layers:
            block.compile()
    task = partial(LanguageModelling if is_best else PaddedVerses, data.token_set, run.batch.seq_len, run.seed)
    of_loop = partial(PlainLoop, run, device=device)
    if is_best:
        autocast = partial(torch.autocast, "cuda", torch.bfloat16) if on_gpu else nullcontext
        optimizer = _adamw(run, model, fused=True)
        yield of_loop(model, optimizer=optimizer, task=task(), autocast=autocast)
    else:
        model = model.bfloat16() if on_gpu else model
        math = partial(sdpa_kernel, SDPBackend.MATH)
        yield of_loop(model, optimizer=_adamw(run, model), task=task(), kernels=math)


@contextmanager
def accelerate_loop(run: RunConfig, data: Text, device: torch.device) -> Iterator[Loop]:
    """The loop of accelerate for a turn, in one process as it is without a launcher."""
    accelerate = importlib.import_module("accelerate")
    model = _model(run, device)
    of_launcher = {name: os.environ.pop(name) for name in OF_A_LAUNCHER if name in os.environ}
    try:
        accelerator = accelerate.Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="bf16" if device.type == "cuda" else "no",
            gradient_accumulation_steps=run.batch.global_batch_size // run.batch.micro_batch_size,
        )
    finally:
        os.environ.update(of_launcher)
    task = LanguageModelling(data.token_set, run.batch.seq_len, run.seed)
    loop = AccelerateLoop(accelerator, run, model, optimizer=_adamw(run, model), task=task, device=device)
    try:
        yield loop
    finally:
        accelerator.free_memory()


def _model(run: RunConfig, device: torch.device) -> MultiTaskModel:
    torch.manual_seed(run.seed)
    shape = run.model if isinstance(run.model, ModelShape) else fit_vocabulary(run)
    return build_model(dataclasses.replace(shape, attention="sdpa"), run.activation_checkpointing).to(device)


def _adamw(run: RunConfig, model: nn.Module, fused: bool = False) -> Optimizer:
    given = run.optimizer
    return torch.optim.AdamW(
        model.parameters(),
        lr=given.lr,
        betas=(given.betas[0], given.betas[1]),
        weight_decay=given.weight_decay,
        fused=fused or None,
    )
