"""A trial of the user's own tasks before training: a first batch, its loss, and what judges the model.

A batch of other shapes than the run's would train and mean something else; an error in a loss would come hours later,
from the middle of the loop.
"""

import inspect
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import TokenHead
from genesis_ds.tasks.base import Batch, Task, TaskContext

T = TypeVar("T")


def try_task(run: RunConfig, model: ModelShape, task: Task, context: TaskContext) -> None:
    """Ask a task of the user's own for a batch, a loss and an evaluation, without the model.

    model: the run's shape, whose vocabulary is known. Raises UserError, named by `extensions.tasks.NAME`, for what
    raises, and for a batch or a loss that is not as genesis_ds.tasks.base says.
    """
    where, positions = f"extensions.tasks.{task.name}", range(run.batch.micro_batch_size)
    batch, again = (_ask(task, "batch", lambda: task.batch(positions)) for _ in range(2))
    _require_batch(where, batch, model.vocab_size, run)
    if not torch.equal(batch.inputs["tokens"], again.inputs["tokens"]):
        raise UserError(f"{where}: batch gives other tokens for the same positions; draw them by position (keyed_bits)")
    _ask(task, "corrupted", lambda: task.corrupted(batch, positions, 0))
    output = _ask(task, "its head", lambda: _output(task, batch, model, run))
    given = _ask(task, "loss", lambda: task.loss(output, batch))
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Tensor)):
        raise UserError(
            f"{where}: loss gives {_described(given)}; give the mean loss, and which examples are right or None"
        )
    loss, right = given
    if loss.shape or not loss.requires_grad or not torch.isfinite(loss):
        raise UserError(
            f"{where}: loss gives {_described(loss)} for an output drawn at random; give the mean as one finite number "
            "[] that depends on the output"
        )
    if right is not None and not (isinstance(right, Tensor) and right.dtype == torch.bool and right.dim() == 1):
        raise UserError(f"{where}: loss says of examples {_described(right)}; give bool [m] or None")
    names = _ask(task, "losses", lambda: task.losses(output, batch)).extra.keys() - task.extra_losses
    if names:
        raise UserError(f"{where}: losses gives {min(names)}, which is not among its extra_losses; name it there")
    evaluation = _ask(task, "evaluation", lambda: task.evaluation(context))
    if not (evaluation is None or callable(evaluation)):
        raise UserError(f"{where}: evaluation gives {type(evaluation).__name__}; give a function of the model, or None")


def _require_batch(where: str, batch: Batch, vocab_size: int, run: RunConfig) -> None:
    """Raise UserError unless a batch has a row of token ids for each of its positions."""
    rows, seq_len = run.batch.micro_batch_size, run.batch.seq_len
    tokens = batch.inputs.get("tokens") if isinstance(batch, Batch) else None
    if not isinstance(tokens, Tensor):
        raise UserError(f"{where}: batch gives no tokens; give Batch with inputs['tokens'], int64 [{rows}, {seq_len}]")
    if tokens.dtype != torch.int64 or tokens.dim() != 2 or len(tokens) != rows or not 0 < tokens.shape[1] <= seq_len:
        raise UserError(
            f"{where}: batch gives tokens that are {_described(tokens)} for {rows} positions; give int64 [{rows}, T], "
            f"T from 1 to batch.seq_len {seq_len}"
        )
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise UserError(
            f"{where}: batch gives token ids from {int(tokens.min())} to {int(tokens.max())}; give 0 to "
            f"{vocab_size - 1}"
        )


def _output(task: Task, batch: Batch, model: ModelShape, run: RunConfig) -> Tensor:
    """Return what a fresh head of the task says of states drawn at random, or logits [B, T, V] that are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head, shape = task.head(model.dim, run.verse_tasks), batch.inputs["tokens"].shape
        if isinstance(head, TokenHead):
            states = head(torch.randn(*shape, model.dim))
            if states.dim() != 3 or states.shape[::2] != (len(batch.inputs["tokens"]), model.dim):
                raise ValueError(f"it gives {_described(states)}; give states [{shape[0]}, any number, {model.dim}]")
            shape = states.shape[:2]
        if head is None or isinstance(head, TokenHead):
            return torch.randn(*shape, model.vocab_size, requires_grad=True)
        states = torch.randn(batch.inputs["documents"].n, model.dim)
        output: Tensor = head(states, batch.inputs["examples"])
    return output


def _ask(task: Task, member: str, ask: Callable[[], T]) -> T:
    """Return what a member of the task gives. Raises UserError with its last line in the user's file if it raises."""
    try:
        return ask()
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if line.filename == inspect.getfile(type(task))]
        at = (own or lines)[-1]
        raise UserError(
            f"extensions.tasks.{task.name}: {member} fails on the first examples: {type(error).__name__}: {error} "
            f"({at.filename}:{at.lineno}); genesis_ds.tasks.base says what it is given"
        ) from error


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    what = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return what if value.dim() else f"{what} = {float(value.detach()):g}"
