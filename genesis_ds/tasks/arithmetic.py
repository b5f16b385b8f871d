"""Modular arithmetic: predict the answer of a op b, where the decoder reads a, b and the sign =.

An epoch is one pass over the training equations in a permutation keyed by (seed, epoch), so that the equation at a
position of the task is a pure function of (seed, position). The task stands in the place of language modelling: its
head is the decoder's own.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.data.arithmetic import ArithmeticTable, Equations
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch, Findings, Model, Score, Task, TaskContext
from genesis_ds.tasks.bits_by_part import rows_of_batches

METRIC = "arithmetic"
CURVE = f"{LM}/{METRIC}"
VALIDATION = "validation"
"""The only validation split of arithmetic."""


class ModularArithmetic(Task):
    """The task of modular arithmetic, on the training equations of a table."""

    name = LM
    kinds = ("answer",)
    sequences_per_epoch: int

    @classmethod
    def build(cls, context: TaskContext) -> "ModularArithmetic":
        return cls(context.equations.train, context.seed)

    def __init__(self, equations: Equations, seed: int) -> None:
        self.equations, self.seed = equations, seed
        self.sequences_per_epoch = len(equations)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the equations at these positions of the task. labels: answers int64 [B]; kinds int64 [B]."""
        epochs, indices = np.divmod(positions, self.sequences_per_epoch)
        rows = np.empty_like(indices)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            order = keyed_permutation(f"arithmetic/{self.seed}/{epoch}", self.sequences_per_epoch)
            rows[of_epoch] = order[indices[of_epoch]]
        tokens, answers = (torch.from_numpy(part[rows]) for part in (self.equations.tokens, self.equations.answers))
        return Batch({"tokens": tokens}, {"answers": answers, "kinds": torch.zeros_like(answers)}, tokens.numel())

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy in nats of logits [B, T, V] at the sign =, and which are right, bool [B]."""
        logits, answers = output[:, -1].float(), batch.labels["answers"]
        return F.cross_entropy(logits, answers), logits.argmax(-1) == answers

    def evaluation(self, context: TaskContext) -> "Answers":
        return Answers(context.equations, context.evaluation.windows(1), context.micro_batch_size)


class Answers:
    """Measures cross-entropy in nats and accuracy of the answers, on training and on validation equations."""

    def __init__(self, table: ArithmeticTable, max_equations: int, rows: int) -> None:
        """max_equations: of each part, which stand in random order, the first ones; 0: all of them."""
        self.parts = {metrics.TRAIN_SUBSET: table.train, VALIDATION: table.validation}
        self.first, self.rows = slice(max_equations or None), rows

    def __call__(self, model: Model) -> Findings:
        """Return cross-entropy and accuracy, each as a metric and as a score."""
        found = Findings(curves_of=VALIDATION)
        for split, part in self.parts.items():
            equations = Equations(part.tokens[self.first], part.answers[self.first], part.modulus)
            n = len(equations)
            batches = [partial(_of_rows, equations, rows) for rows in rows_of_batches(n, self.rows)]
            nats, right = model.sums(LM, batches, _nats_and_right)
            loss, accuracy = (metrics.judged(split, METRIC, measure) for measure in ("loss", "accuracy"))
            found.metrics[loss], found.metrics[accuracy] = nats / n, right / n
            found.metrics[accuracy + metrics.CHANCE] = 1 / part.modulus
            found.metrics[accuracy + metrics.TRIALS] = n
            found.scores[split] = {CURVE: Score(nats / n, right / n)}
        return found


def _of_rows(equations: Equations, rows: NDArray[np.int64]) -> Batch:
    """Return the batch of these rows of the equations, of which those beyond the last have no answers."""
    n = len(equations)
    tokens, answers = torch.from_numpy(equations.tokens[rows % n]), torch.from_numpy(equations.answers[rows[rows < n]])
    return Batch({"tokens": tokens}, {"answers": answers})


def _nats_and_right(logits: Tensor, batch: Batch) -> tuple[float, float]:
    answers = batch.labels["answers"]
    logits = logits[:, -1].float()[: len(answers)]
    return float(F.cross_entropy(logits, answers, reduction="sum")), int((logits.argmax(-1) == answers).sum())
