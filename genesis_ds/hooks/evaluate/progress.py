"""Progress measures of modular addition and subtraction, on the way."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.progress import fourier_norms, gini, progress
from genesis_ds.data.arithmetic import ArithmeticTable
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.bits_by_part import rows_of_batches

EMBEDDING = "base.tok_embeddings.weight"
OPERATIONS = ("add", "subtract")
"""Of which the answer is a sum of waves in both numbers."""
LARGEST = 128
"""Modulus p up to which all p^2 pairs are asked: with their logits in fp64 a measurement holds some 48 p^3 bytes."""


class ProgressMeasures(Hook):
    """Measures restricted and excluded loss and the Gini coefficient of the embedding (analysis/progress.py).

    It asks all pairs, training and validation, when `trajectory` measures.
    """

    def __init__(
        self,
        *,
        calls: ModelCalls,
        evaluating: Callable[[], AbstractContextManager[None]],
        embedding: Callable[[], Iterator[tuple[str, Tensor]]],
        table: ArithmeticTable,
        every: int,
        rows: int,
    ) -> None:
        """calls: of the output for the residues at the last token, [B, p]. embedding: yields the matrix [V, D], if any.

        rows: of one forward call.
        """
        self.calls, self.evaluating, self.embedding, self.every = calls, evaluating, embedding, every
        parts = (table.train, table.validation)
        self.tokens, self.answers = (
            np.concatenate(both) for both in ([part.tokens for part in parts], [part.answers for part in parts])
        )
        self.is_train = np.arange(len(self.answers)) < len(table.train)
        self.modulus = table.train.modulus
        self.numbers = rows_of_batches(len(self.answers), rows)

    @classmethod
    def build(cls, context: HookContext) -> "ProgressMeasures | None":
        """Return the hook of a run that adds or subtracts, of a modulus that is not too large."""
        run, engine = context.run, context.engine
        config = run.config.arithmetic
        if not config.modulus or config.modulus > LARGEST or config.operation not in OPERATIONS:
            return None
        if not run.intervals.trajectory:
            return None
        modulus = config.modulus

        def residues(task: str, tokens: Tensor) -> Tensor:
            return engine.output(task, tokens)[:, -1, :modulus]

        return cls(
            calls=ModelCalls(residues, engine.ranks, engine.device),
            evaluating=engine.evaluating,
            embedding=partial(engine.weights, (EMBEDDING,)),
            table=context.arithmetic.table,
            every=run.intervals.trajectory,
            rows=run.config.batch.micro_batch_size,
        )

    def on_step(self, record: StepRecord) -> None:
        if record.global_step != 1 and not record.due(self.every):
            return
        batches = [partial(self._batch, rows) for rows in self.numbers]
        with self.evaluating():
            logits = self.calls.outputs(LM, batches, self.numbers)
        found = progress(logits[: len(self.answers)], self.answers, self.is_train)
        record.metrics |= {
            metrics.RESTRICTED_LOSS: found.restricted_loss,
            metrics.EXCLUDED_LOSS: found.excluded_loss,
            metrics.KEY_FREQUENCIES: len(found.key_frequencies),
        }
        for _, weight in self.embedding():
            norms = fourier_norms(weight[: self.modulus].float().cpu().numpy())
            record.metrics[metrics.EMBEDDING_GINI] = gini(norms)

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        """Return the batch of these pairs; a number beyond the last stands for one from the beginning."""
        return Batch({"tokens": torch.from_numpy(self.tokens[rows % len(self.tokens)])})
