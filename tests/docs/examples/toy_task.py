"""A task of one's own: does a row of tokens stand in its order, or reversed?

extensions:
  tasks: {reversal: toy_task:Reversal}
tasks: {lm: 0.8, reversal: 0.2}
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.config import VerseTasksConfig
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.model.documents import Documents
from genesis_ds.model.linear import Linear
from genesis_ds.tasks.base import Batch, Evaluation, Findings, Model, Score, Task, TaskContext, Unavailable

ROWS = 64
"""Rows that an evaluation asks about."""


class ReversalHead(nn.Module):
    """Says of a document whether it is reversed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output = Linear(dim, 1, gain=None)

    def forward(self, documents: Tensor, examples: Tensor) -> Tensor:
        """Documents [n, D] and the numbers of some of them [m, 1] -> logits [m] in fp32."""
        return self.output(documents[examples[:, 0]]).squeeze(-1).float()


class Reversal(Task):
    """Rows of text, every other one of them reversed."""

    name = "reversal"
    kinds = ("forward", "reversed")

    def __init__(self, text: np.ndarray, seq_len: int, seed: int) -> None:
        """text: token ids. Raises Unavailable where they are fewer than a row."""
        if len(text) < seq_len:
            raise Unavailable(f"the text is shorter than a row of {seq_len} tokens")
        self.text, self.seq_len, self.seed = text, seq_len, seed

    @classmethod
    def build(cls, context: TaskContext) -> "Reversal":
        language = context.token_set.languages[0]
        return cls(context.token_set.stream("train", language).tokens, context.seq_len, context.seed)

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module:
        return ReversalHead(dim)

    def batch(self, positions: range) -> Batch:
        kinds = np.array(positions) % 2
        rows = np.stack([self._row(position) for position in positions])
        rows[kinds == 1] = rows[kinds == 1, ::-1]
        numbers = torch.arange(len(rows))[:, None]  # each row is a document
        inputs = {
            "tokens": torch.from_numpy(rows),
            "documents": Documents.of(numbers.expand(rows.shape)),
            "examples": numbers,
        }
        return Batch(inputs, {"kinds": torch.from_numpy(kinds)}, rows.size)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        is_reversed = batch.labels["kinds"] == 1
        return F.binary_cross_entropy_with_logits(output, is_reversed.float()), (output > 0) == is_reversed

    def evaluation(self, context: TaskContext) -> Evaluation:
        language = context.token_set.languages[0]
        streams = {split: context.token_set.stream(tier, language) for split, tier in context.splits.items()}
        long_enough = {split: stream.tokens for split, stream in streams.items() if len(stream.tokens) >= self.seq_len}
        tasks = {split: Reversal(text, self.seq_len, seed=0) for split, text in long_enough.items()}
        return partial(judge, tasks, context)

    def _row(self, position: int) -> np.ndarray:
        (bits,) = keyed_bits(f"{self.name}/{self.seed}/{position}", 1)
        start = int(bits % np.uint64(len(self.text) - self.seq_len + 1))
        return self.text[start : start + self.seq_len].astype(np.int64)


def judge(tasks: dict[str, Reversal], context: TaskContext, model: Model) -> Findings:
    """Return the accuracy on each split, beside chance, and a curve of loss and accuracy."""
    found, size = Findings(curves_of=context.curves_of), context.micro_batch_size
    for split, task in tasks.items():
        batches = [partial(task.batch, range(start, start + size)) for start in range(0, ROWS, size)]
        nats, right, n = model.sums(Reversal.name, batches, partial(measure, task))
        accuracy = metrics.judged(split, Reversal.name, "accuracy")
        found.metrics.update({accuracy: right / n, accuracy + metrics.CHANCE: 0.5, accuracy + metrics.TRIALS: n})
        found.scores[split] = {f"{Reversal.name}/all": Score(nats / n, right / n)}
    return found


def measure(task: Reversal, output: Tensor, batch: Batch) -> tuple[float, float, float]:
    """Return the sum of the losses, the rows that are right, and all of them."""
    loss, right = task.loss(output, batch)
    return float(loss) * len(right), float(right.sum()), len(right)
