"""Calls of a model on verses, whose packs are shared out over the ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.engine.distributed import Ranks, add_over_ranks
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import STATES
from genesis_ds.tasks.verse_task import Examples, Packer


class VerseCalls:
    """What the model says of verses. Every rank makes the same number of forward calls, as ZeRO-3 needs."""

    def __init__(self, outputs: Callable[..., Tensor], ranks: Ranks, device: torch.device) -> None:
        """outputs: task, tokens, documents, examples and what else there is -> an output for each example."""
        self.outputs, self.ranks, self.device = outputs, ranks, device

    def __call__(self, task: str, packer: Packer, examples: Examples, **options: object) -> NDArray[np.float32]:
        """The output for every example, in their order, on every rank."""
        packs = packer.pack(examples)
        collected: Tensor | None = None
        for start in range(0, len(packs), self.ranks.world_size):
            mine = start + self.ranks.rank
            batch = packer.collate([packs[min(mine, len(packs) - 1)]]).to(self.device)
            output = self.outputs(task, **batch.inputs, **options)
            if collected is None:
                collected = torch.zeros(len(examples.kinds), *output.shape[1:], device=self.device)
            if mine < len(packs):
                collected[torch.from_numpy(packs[mine].numbers).to(self.device)] = output
        assert collected is not None, "there is at least one example"
        add_over_ranks(collected)
        return collected.cpu().numpy()


class VerseStates:
    """Mean hidden states of verses at several depths, of the model as it is."""

    def __init__(
        self,
        calls: VerseCalls,
        evaluating: Callable[[], AbstractContextManager],
        n_layers: int,
        seq_len: int,
        rows: int,
    ) -> None:
        """rows: of seq_len tokens in one forward call."""
        self.calls, self.evaluating, self.shape = calls, evaluating, (seq_len, rows)
        self.depths = tuple(sorted({max(1, n_layers * quarter // 4) for quarter in (1, 2, 3, 4)}))
        """Layers passed: L/4, L/2, 3L/4 and L, where the states are normed."""

    @classmethod
    def of(cls, context: HookContext) -> "VerseStates":
        """Return those of a run's model."""
        run, engine = context.run, context.engine
        calls = VerseCalls(engine.output, engine.ranks, engine.device)
        batch = run.config.batch
        return cls(calls, engine.evaluating, run.model.n_layers, batch.seq_len, batch.micro_batch_size)

    def __call__(self, verses: ParallelVerses) -> NDArray[np.float32]:
        """Of n verses in l languages [depths, l, n, D], equal on every rank, all of which call it."""
        examples = Examples(verses.rows.reshape(-1, 1), np.zeros(verses.rows.size, np.int64))
        with self.evaluating():
            states = self.calls(STATES, Packer(verses.table, *self.shape), examples, depths=self.depths)
        return np.moveaxis(states[:, 0].reshape(*verses.rows.shape, *states.shape[2:]), 2, 0)
