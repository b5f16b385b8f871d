"""Language modelling on packed windows: no padding, no state, any number of ranks.

An epoch is one pass over the training tokens. In epoch e every language's stream is cut into windows of T+1 tokens
at stride T from an offset keyed by (seed, e), and all windows of all languages are visited in a permutation keyed by
(seed, e). So the window at a position of the task is a pure function of (seed, position).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.data.keyed_random import keyed_bits, keyed_permutation
from genesis_ds.data.token_set import Stream, TokenSet
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch, Findings, Model, Score, Task, TaskContext
from genesis_ds.tasks.masking import MASK_ID, Masks

IGNORE = -100
"""Target id that the loss leaves out."""


class LanguageModelling(Task):
    """The task of language modelling, on the training windows of a token set."""

    name = LM
    sequences_per_epoch: int
    """Windows in one pass over the training tokens."""

    @classmethod
    def build(cls, context: TaskContext) -> "LanguageModelling":
        return cls(context.token_set, context.seq_len, context.seed, context.masks)

    def __init__(self, token_set: TokenSet, seq_len: int, seed: int, masks: Masks | None = None) -> None:
        """Raises UserError when no language has a whole window of training text."""
        self.seq_len, self.seed, self.masks = seq_len, seed, masks
        self.streams = [token_set.stream("train", language).tokens for language in token_set.languages]
        self.n_windows = np.array([max(0, len(stream) - 1) // seq_len for stream in self.streams])
        self.first_window = np.cumsum(self.n_windows) - self.n_windows
        self.sequences_per_epoch = int(self.n_windows.sum())
        if not self.sequences_per_epoch:
            longest = max(map(len, self.streams))
            raise UserError(f"batch.seq_len: {seq_len} is longer than the training text; give at most {longest - 1}")

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the windows at these positions of the task, in this order."""
        windows = np.stack([self._window(*divmod(position, self.sequences_per_epoch)) for position in positions])
        return as_batch(windows)

    def corrupted(self, batch: Batch, positions: Sequence[int], step: int) -> Batch:
        """Return the batch with what is masked in it at this step replaced by MASK_ID; its targets stay."""
        if self.masks is None or not (share := self.masks.share(step)):
            return batch
        masked = [self._masked(self.masks, position, share) for position in positions]
        tokens = batch.inputs["tokens"].masked_fill(torch.from_numpy(np.stack(masked)), MASK_ID)
        return replace(batch, inputs={"tokens": tokens})

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """Return the mean cross-entropy in nats of logits [B, T, V]."""
        return cross_entropy(output, batch.labels["targets"]), None

    def evaluation(self, context: TaskContext) -> "BitsPerByte":
        return BitsPerByte(context)

    def _window(self, epoch: int, index: int) -> np.ndarray:
        language, start = self._locate(epoch, index)
        return self.streams[language][start : start + self.seq_len + 1]

    def _masked(self, masks: Masks, position: int, share: float) -> NDArray[np.bool_]:
        language, start = self._locate(*divmod(position, self.sequences_per_epoch))
        return masks.of_window(language, start, self.seq_len, share=share, key=f"masks/{self.seed}/{position}")

    def _locate(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the language (its index) of an epoch's window, and the window's first token in the stream."""
        window = keyed_permutation(f"lm/{self.seed}/{epoch}", self.sequences_per_epoch)[index]
        language = int(np.searchsorted(self.first_window, window, side="right")) - 1
        stream = self.streams[language]
        slack = len(stream) - 1 - self.n_windows[language] * self.seq_len
        offset = int(keyed_bits(f"lm/{self.seed}/{epoch}/{language}", 1)[0] % np.uint64(slack + 1))
        return language, int(offset + (window - self.first_window[language]) * self.seq_len)


class BitsPerByte:
    """Measures the cross-entropy of every language in every validation split, in bits per UTF-8 byte.

    Where a split's curves are wanted, also that of a fixed part of the training text: a point of curve lm/<language>
    has both, in nats per token. The windows are the same at every evaluation.
    """

    def __init__(self, context: TaskContext) -> None:
        self.curves_of, self.rows = context.curves_of, context.micro_batch_size
        self.byte_lengths = context.token_set.byte_lengths
        self.windows: dict[tuple[str, str], Batch] = {}
        for split, tier in context.splits.items():
            for language in context.token_set.languages:
                stream = context.token_set.stream(tier, language)
                batch = evaluation_windows(stream, context.seq_len, context.evaluation.max_windows)
                if batch.n_tokens:
                    self.windows[split, language] = batch

    def __call__(self, model: Model) -> Findings:
        """Return the bits per byte, and the nats per token as scores."""
        found = Findings(curves_of=self.curves_of)
        for (split, language), batch in self.windows.items():
            targets = batch.labels["targets"].numpy()
            batches = [partial(_of_rows, batch, rows) for rows in rows_of_batches(len(targets), self.rows)]
            targets = targets[targets != IGNORE]
            (nats,) = model.sums(LM, batches, _nats)
            found.scores.setdefault(split, {})[f"{LM}/{language}"] = Score(nats / len(targets))
            n_bits, n_bytes = nats / math.log(2), int(self.byte_lengths[targets].sum())
            found.metrics[metrics.bits_per_byte(split, language)] = n_bits / n_bytes
        return found


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the cross-entropy in nats of logits [B, T, V] for targets [B, T], those of IGNORE left out, in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction=reduction)


def rows_of_batches(n: int, rows: int) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of n rows, all of one size; those from n on are there to fill up the last."""
    return [np.arange(start, start + min(rows, n)) for start in range(0, n, rows)]


def _of_rows(windows: Batch, rows: NDArray[np.int64]) -> Batch:
    """Return the batch of these rows of the windows, of which those beyond the last have no targets."""
    n = len(windows.labels["targets"])
    tokens, targets = windows.inputs["tokens"][rows % n], windows.labels["targets"][rows % n]
    targets[torch.from_numpy(rows >= n)] = IGNORE
    return Batch({"tokens": tokens}, {"targets": targets})


def _nats(logits: Tensor, batch: Batch) -> tuple[float]:
    return (float(cross_entropy(logits, batch.labels["targets"], "sum")),)


def evaluation_windows(stream: Stream, seq_len: int, max_windows: int) -> Batch:
    """Return windows that cover a stream from its first token on, every target once; the last one is padded.

    There are at most max_windows of them, evenly spaced; 0: all. Padding has target IGNORE.
    """
    n = -(-max(0, len(stream.tokens) - 1) // seq_len)
    chosen = evenly_spaced(n, max_windows or n)
    windows = np.full((len(chosen), seq_len + 1), IGNORE, dtype=np.int64)
    for row, window in enumerate(chosen):
        piece = stream.tokens[window * seq_len : (window + 1) * seq_len + 1]
        windows[row, : len(piece)] = piece
    batch = as_batch(windows)
    batch.inputs["tokens"].clamp_(min=0)
    return batch


def evenly_spaced(n: int, at_most: int) -> list[int]:
    """Return evenly spaced numbers below n, the first and the last among them, `at_most` in all."""
    return [int(row) for row in np.linspace(0, n - 1, min(n, at_most)).round()]


def as_batch(windows: np.ndarray) -> Batch:
    """Return the tokens and next-token targets, int64 [B, T], of windows [B, T+1]."""
    ids = torch.from_numpy(windows.astype(np.int64))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return Batch({"tokens": tokens}, {"targets": targets}, tokens.numel())
