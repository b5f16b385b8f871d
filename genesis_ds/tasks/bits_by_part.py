"""The cross-entropy of fixed windows of text by part, which is a split in a language, and by group of targets.

Groups, G of them, are what a task tells apart among the targets of one window: strata, or how far ahead a target is.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch, MakeBatch, Model, TaskContext

ByGroup = Callable[[Tensor, Batch], Tensor]
"""Values of the targets [B, T], and their windows -> the sums of each group's in each window, [B, G]."""


class PartWindows(NamedTuple):
    """The windows of one part, and what they hold of each group, [G]."""

    windows: Batch
    n_tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, windows: Batch, byte_lengths: NDArray[np.int32], by_group: ByGroup) -> "PartWindows":
        """Return the windows with their sizes. byte_lengths: of each token id."""
        targets = windows.labels["targets"]
        is_target = targets != IGNORE
        n_bytes = torch.from_numpy(byte_lengths[targets.clamp(min=0)]) * is_target
        return cls(windows, *(by_group(values.long(), windows).sum(0).numpy() for values in (is_target, n_bytes)))


class Sums(NamedTuple):
    """What a part comes to, of each group, [G]."""

    nats: list[float]
    n_tokens: list[int]
    n_bytes: list[int]


class NatsByPart:
    """Adds up the nats of the targets of every part. Windows of all parts fill batches together: some have few."""

    def __init__(
        self,
        context: TaskContext,
        parts: Mapping[tuple[str, str], PartWindows],
        nats: Callable[[Tensor, Batch], Tensor],
    ) -> None:
        """parts: by split and language. nats: the task's output for windows, and these -> the nats, fp64 [B, G]."""
        in_order = [(split, language) for split in context.splits for language in context.token_set.languages]
        self.sizes = {key: parts[key][1:] for key in in_order if key in parts}
        self.windows = _joined([parts[key].windows for key in self.sizes]) if self.sizes else None
        self.nats, self.rows = nats, context.micro_batch_size

    def __call__(self, model: Model, task: str) -> Iterator[tuple[str, str, Sums]]:
        """Yield the split, the language and the sums of every part."""
        if self.windows is None:
            return
        sums = model.sums(task, batches_of(self.windows, self.rows), self._by_part)
        nats = np.array(sums).reshape(len(self.sizes), -1)
        for ((split, language), (n_tokens, n_bytes)), of_part in zip(self.sizes.items(), nats, strict=True):
            yield split, language, Sums(of_part.tolist(), n_tokens.tolist(), n_bytes.tolist())

    def _by_part(self, output: Tensor, windows: Batch) -> list[float]:
        parts = F.one_hot(windows.labels["part"], len(self.sizes)).double()
        sums: list[float] = (parts.T @ self.nats(output, windows)).flatten().tolist()
        return sums


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Return the bits per byte of text of which all targets take this many nats."""
    return nats / math.log(2) / n_bytes


def rows_of_batches(n: int, rows: int) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of n rows, all of one size; those from n on are there to fill up the last."""
    return [np.arange(start, start + min(rows, n)) for start in range(0, n, rows)]


def batches_of(windows: Batch, rows: int) -> list[MakeBatch]:
    """Return the batches of these windows, all of so many rows; those that fill up the last have no targets."""
    numbers = rows_of_batches(len(windows.labels["targets"]), rows)
    return [partial(_windows_of_rows, windows, of_batch) for of_batch in numbers]


def _windows_of_rows(windows: Batch, rows: NDArray[np.int64]) -> Batch:
    """Return the batch of these rows of the windows, of which those beyond the last have no targets."""
    n = len(windows.labels["targets"])
    labels = {name: values[rows % n] for name, values in windows.labels.items()}
    labels["targets"][torch.from_numpy(rows >= n)] = IGNORE
    given = {name: labels.get(name, values[rows % n]) for name, values in windows.inputs.items()}
    return Batch(given, labels)


def _joined(parts: Sequence[Batch]) -> Batch:
    """Return the windows of all parts in one batch, with the label part, [n]: the number of the one each is of."""
    numbers = np.repeat(np.arange(len(parts)), [len(part.labels["targets"]) for part in parts])
    labels = {name: torch.cat([part.labels[name] for part in parts]) for name in parts[0].labels}
    tokens = torch.cat([part.inputs["tokens"] for part in parts])
    given = {"tokens": tokens, "targets": labels["targets"]}
    return Batch(given, labels | {"part": torch.from_numpy(numbers)})
