"""Calls of a model in evaluation, shared out over the ranks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.engine.distributed import add_over_ranks, sum_over_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import STATES
from genesis_ds.tasks.base import Batch, MakeBatch
from genesis_ds.tasks.verse_task import Examples, Packer


class ModelCalls:
    """The Model that evaluations call. Every rank makes the same number of forward calls, as ZeRO-3 needs."""

    def __init__(self, output: Callable[..., Tensor], ranks: Ranks, device: torch.device) -> None:
        """output: a task's name and the inputs of a batch, by name -> the output of the task's head."""
        self.output, self.ranks, self.device = output, ranks, device

    def sums(
        self, task: str, batches: Sequence[MakeBatch], measure: Callable[[Tensor, Batch], Sequence[float]]
    ) -> list[float]:
        """Return the sums over all batches of what `measure` says of the task's output for each, on every rank."""
        totals: list[float] = []
        for number in self._numbers_of_rank(batches):
            batch = self._batch(batches, number)
            values = measure(self.output(task, **batch.inputs), batch)
            totals = totals or [0.0] * len(values)
            if number < len(batches):
                totals = [total + value for total, value in zip(totals, values, strict=True)]
        return sum_over_ranks(totals, self.device)

    def outputs(
        self, task: str, batches: Sequence[MakeBatch], numbers: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float32]:
        """Return the output for every example, [n, ...], on every rank. numbers: of each batch's examples."""
        collected: Tensor | None = None
        for number in self._numbers_of_rank(batches):
            output = self.output(task, **self._batch(batches, number).inputs)
            if collected is None:
                collected = torch.zeros(sum(map(len, numbers)), *output.shape[1:], device=self.device)
            if number < len(batches):
                collected[torch.from_numpy(numbers[number]).to(self.device)] = output
        assert collected is not None, "there is at least one batch"
        add_over_ranks(collected)
        return collected.cpu().numpy()

    def _numbers_of_rank(self, batches: Sequence[MakeBatch]) -> range:
        """Return the numbers of this rank's batches, as many on every rank: what is beyond the last is dropped."""
        n_ranks = self.ranks.world_size
        return range(self.ranks.rank, -(-len(batches) // n_ranks) * n_ranks, n_ranks)

    def _batch(self, batches: Sequence[MakeBatch], number: int) -> Batch:
        return batches[min(number, len(batches) - 1)]().to(self.device)


class VerseStates:
    """Computes the mean hidden states of verses at several depths, by the model as it is."""

    def __init__(
        self,
        calls: ModelCalls,
        evaluating: Callable[[], AbstractContextManager[None]],
        *,
        n_layers: int,
        seq_len: int,
        rows: int,
    ) -> None:
        """rows: of seq_len tokens in one forward call."""
        self.evaluating, self.shape = evaluating, (seq_len, rows)
        self.depths = tuple(sorted({max(1, n_layers * quarter // 4) for quarter in (1, 2, 3, 4)}))
        """Number of layers passed: L/4, L/2, 3L/4 and L, after which the states are normed."""
        self.calls = ModelCalls(partial(calls.output, depths=self.depths), calls.ranks, calls.device)

    @classmethod
    def of(cls, context: HookContext) -> "VerseStates":
        """Return the one for a run's model."""
        run, engine = context.run, context.engine
        calls = ModelCalls(engine.output, engine.ranks, engine.device)
        batch = run.config.batch
        return cls(
            calls,
            engine.evaluating,
            n_layers=run.model.n_layers,
            seq_len=batch.seq_len,
            rows=batch.micro_batch_size,
        )

    def __call__(self, verses: ParallelVerses) -> NDArray[np.float32]:
        """Return the states of n verses in l languages, [depths, l, n, D], equal on every rank. Every rank calls it."""
        examples = Examples(verses.rows.reshape(-1, 1), np.zeros(verses.rows.size, np.int64))
        with self.evaluating():
            states = Packer(verses.table, *self.shape).outputs(self.calls, STATES, examples)
        return np.moveaxis(states[:, 0].reshape(*verses.rows.shape, *states.shape[2:]), 2, 0)
