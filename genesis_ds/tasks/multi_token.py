"""Multi-token prediction: the tokens after the next one, from the same hidden states (arXiv 2404.19737).

Its windows are cut as those of language modelling, in an order of their own, without masks and canaries.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.analysis.skip_bigrams import SkipBigrams
from genesis_ds.config import VerseTasksConfig
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.errors import Unavailable
from genesis_ds.model.linear import Linear
from genesis_ds.model.multitask import TokenHead
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch, Findings, Model, Score, Task, TaskContext
from genesis_ds.tasks.lm import (
    LanguageModelling,
    cross_entropy,
    evaluation_windows,
    joined,
    rows_of_batches,
    windows_of_rows,
)

NEXT = 2
"""The first offset that the task predicts; language modelling has the one before."""


class OffsetsHead(TokenHead):
    """For each offset x + SiLU(W x) of the hidden states x (Medusa's head, arXiv 2401.10774).

    The decoder's own output layer reads it, as in arXiv 2404.19737, whose heads are whole blocks.
    """

    def __init__(self, dim: int, n_offsets: int) -> None:
        super().__init__()
        self.offsets = nn.ModuleList(Linear(dim, dim, gain=None) for _ in range(n_offsets))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, T, D] -> those of the first offset, then of the second and so on, [B, offsets * T, D]."""
        return torch.cat([hidden + F.silu(offset(hidden)) for offset in self.offsets], dim=1)


class MultiToken(Task):
    """The task of the tokens at t + 2 to t + `verse_tasks.tokens_ahead`, within the window that t is in."""

    name = "multi_token"
    sequences_per_epoch: int

    @classmethod
    def build(cls, context: TaskContext) -> "MultiToken":
        furthest = context.options.tokens_ahead
        if furthest > context.seq_len // 2:
            raise Unavailable(
                f"verse_tasks.tokens_ahead {furthest} is more than half of batch.seq_len {context.seq_len}: most of "
                "what it predicts is beyond the window; lower the one or raise the other"
            )
        seed = int(keyed_bits(f"{cls.name}/{context.seed}", 1)[0])  # not the order of language modelling
        windows = LanguageModelling(context.token_set, context.seq_len, seed, shuffle_chapters=context.shuffle_chapters)
        return cls(windows, furthest)

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module:
        return OffsetsHead(dim, options.tokens_ahead - NEXT + 1)

    def __init__(self, windows: LanguageModelling, furthest: int) -> None:
        self.windows, self.offsets = windows, range(NEXT, furthest + 1)
        self.sequences_per_epoch = windows.sequences_per_epoch

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the windows at these positions of the task. targets: int64 [B, offsets * T], see `ahead`."""
        return ahead(self.windows.batch(positions), self.offsets)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """Return the mean cross-entropy in nats of logits [B, offsets * T, V], or of the nats that they gave."""
        return cross_entropy(output, batch.labels["targets"]), None

    def evaluation(self, context: TaskContext) -> "BitsAhead":
        return BitsAhead(context, self.offsets)


def ahead(windows: Batch, offsets: Sequence[int]) -> Batch:
    """Return windows of language modelling with the targets of these offsets, one offset after the other.

    A target beyond the end of its window is IGNORE.
    """
    targets = windows.labels["targets"]
    shifted = [F.pad(targets[:, offset - 1 :], (0, offset - 1), value=IGNORE) for offset in offsets]
    wanted = {"targets": torch.cat(shifted, dim=1)}
    return Batch(windows.inputs | wanted, windows.labels | wanted, windows.n_tokens)


class Part(NamedTuple):
    """What of one split and language the model is judged on, [offsets] each."""

    n_tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    by_bigrams: NDArray[np.float64]
    """The sum of the nats that counts of the training text give."""


class BitsAhead:
    """Measures the cross-entropy of every offset in bits per UTF-8 byte, by language and validation split.

    Beside it stands what counts of the training text give, of how often a token stands at this offset from another.
    """

    def __init__(self, context: TaskContext, offsets: Sequence[int]) -> None:
        self.offsets, self.rows, self.curves_of = offsets, context.micro_batch_size, context.curves_of
        found: dict[tuple[str, str], tuple[Batch, Part]] = {}
        for language in context.token_set.languages:
            found |= {(split, language): part for split, part in _parts(context, language, offsets)}
        in_order = [(split, language) for split in context.splits for language in context.token_set.languages]
        self.parts = {key: found[key][1] for key in in_order if key in found}
        self.windows = joined([found[key][0] for key in self.parts]) if self.parts else None

    def __call__(self, model: Model) -> Findings:
        """Return the bits per byte of every offset, and the nats per token of all as scores."""
        found = Findings(curves_of=self.curves_of)
        for ((split, language), part), nats in zip(self.parts.items(), self._nats(model), strict=True):
            curve = f"{MultiToken.name}/{language}"
            found.scores.setdefault(split, {})[curve] = Score(float(nats.sum() / part.n_tokens.sum()))
            of_model, by_bigrams = (_bits(sums, part.n_bytes) for sums in (nats, part.by_bigrams))
            for offset, bits, of_counts in zip(self.offsets, of_model, by_bigrams, strict=True):
                name = metrics.judged(split, MultiToken.name, language, f"ahead_{offset}_{metrics.BITS_PER_BYTE}")
                found.metrics.update({name: bits, metrics.by_surface(name, metrics.BY_BIGRAMS): of_counts})
        return found

    def _nats(self, model: Model) -> NDArray[np.float64]:
        """Return the sum of the losses of each part at each offset, [parts, offsets]."""
        shape = len(self.parts), len(self.offsets)
        if self.windows is None:
            return np.zeros(shape)
        numbers = rows_of_batches(len(self.windows.labels["part"]), self.rows)
        batches = [partial(windows_of_rows, self.windows, rows) for rows in numbers]
        return np.array(model.sums(MultiToken.name, batches, partial(_nats_by_part, shape))).reshape(shape)


def _parts(context: TaskContext, language: str, offsets: Sequence[int]) -> Iterator[tuple[str, tuple[Batch, Part]]]:
    """Yield each split of a language that has a target at every offset, its windows and what they hold."""
    token_set = context.token_set
    most, training = context.evaluation.windows(len(token_set.languages)), token_set.stream("train", language).tokens
    tables = [SkipBigrams(training, offset, len(token_set.byte_lengths)) for offset in offsets]
    for split, tier in context.splits.items():
        windows = ahead(evaluation_windows(token_set.stream(tier, language), context.seq_len, most), offsets)
        tokens = windows.inputs["tokens"].numpy()
        targets = windows.labels["targets"].numpy().reshape(len(tokens), len(offsets), -1)
        are, ids = targets != IGNORE, targets.clip(min=0)
        n_tokens = are.sum((0, 2))
        if n_tokens.all():
            by_bigrams = [table.nats(tokens, ids[:, i])[are[:, i]].sum() for i, table in enumerate(tables)]
            n_bytes = np.where(are, token_set.byte_lengths[ids], 0).sum((0, 2))
            yield split, (windows, Part(n_tokens, n_bytes, np.array(by_bigrams)))


def _nats_by_part(shape: tuple[int, int], output: Tensor, batch: Batch) -> list[float]:
    """Return the sum of the losses of each part at each offset. shape: how many parts and offsets there are."""
    n_parts, n_offsets = shape
    targets = batch.labels["targets"]
    of_windows = cross_entropy(output, targets, "none").double().view(len(targets), n_offsets, -1).sum(-1)
    sums: list[float] = (F.one_hot(batch.labels["part"], n_parts).double().T @ of_windows).flatten().tolist()
    return sums


def _bits(nats: NDArray[np.float64], n_bytes: NDArray[np.int64]) -> list[float]:
    found: list[float] = (nats / n_bytes / math.log(2)).tolist()
    return found
