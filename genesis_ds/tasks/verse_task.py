"""The tasks on verses: examples drawn by key, packed into rows, and batches of packs."""

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.packing import pack
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.errors import Unavailable
from genesis_ds.model.documents import PADDING, Documents
from genesis_ds.tasks.base import Batch, Model, Task

PACK_TOKENS = 2048
"""Fewest tokens that a pack should have: with fewer, more of it is padding."""
BLOCK = 32
"""Packs that are planned together. Every rank plans all packs of a block of which it has one, so large blocks cost more
on many ranks; at the end of a block the examples that still wait are dropped, which are a little longer than others,
so small blocks train on shorter ones (at 32, by about 1 % on bytes of real verses in rows of 512)."""
CHUNK = 128
"""Examples drawn at a time."""


class Examples(NamedTuple):
    """The verses of n examples, k in each, and their kinds."""

    verses: NDArray[np.int64]
    """[n, k]: indices into the verse table."""
    kinds: NDArray[np.int64]
    """[n]: indices into the task's kinds."""


class Pack(NamedTuple):
    """A pack of m examples."""

    numbers: NDArray[np.int64]
    """[m]: the examples' numbers among those that were packed."""
    examples: Examples
    rows: NDArray[np.int64]
    """[m, k]: the row of the pack in which each verse lies, those of a row in order of the examples."""


class Packer:
    """Lays examples out in packs of n_rows rows of seq_len tokens, and makes batches of packs."""

    def __init__(self, verses: VerseTable, seq_len: int, n_rows: int) -> None:
        self.verses, self.seq_len, self.n_rows = verses, seq_len, n_rows

    def pack(self, examples: Examples) -> list[Pack]:
        """Return the examples in as many packs as they need, without those that fit in no pack."""
        return list(self.stream([examples]))

    def stream(self, chunks: Iterable[Examples]) -> Iterator[Pack]:
        """Yield packs of any number of examples, which are taken as they are needed."""
        verses: list[list[int]] = []
        kinds: list[int] = []

        def lengths() -> Iterator[list[int]]:
            for chunk in chunks:
                verses.extend(chunk.verses.tolist())
                kinds.extend(chunk.kinds.tolist())
                yield from self.verses.lengths[chunk.verses].tolist()

        for placed in pack(lengths(), self.n_rows, self.seq_len):
            numbers = [number for number, _ in placed]
            examples = Examples(np.array([verses[i] for i in numbers]), np.array([kinds[i] for i in numbers]))
            yield Pack(np.array(numbers), examples, np.array([rows for _, rows in placed]))

    def collate(self, packs: Sequence[Pack]) -> Batch:
        """Return the batch of these packs, with n examples in all.

        inputs: tokens int64 [B, T], padded with 0; documents; examples int64 [n, k], document numbers. labels: kinds
        int64 [n]; pack int64 [n], the pack of each example; weights float32 [n], equal in a pack, 1 / packs in all.
        """
        verses = np.concatenate([packed.examples.verses for packed in packs])
        pack_of = np.repeat(np.arange(len(packs)), [len(packed.rows) for packed in packs])
        rows = np.concatenate([packed.rows for packed in packs]) + pack_of[:, None] * self.n_rows
        tokens = np.zeros((len(packs) * self.n_rows, self.seq_len), np.int64)
        numbers = np.full_like(tokens, PADDING)
        ends = [0] * len(tokens)
        for document, (verse, row) in enumerate(zip(verses.flat, rows.flat, strict=True)):
            ids = self.verses.tokens(verse)
            start, ends[row] = ends[row], ends[row] + len(ids)
            tokens[row, start : ends[row]] = ids
            numbers[row, start : ends[row]] = document
        weights = 1 / (np.bincount(pack_of)[pack_of] * len(packs))
        inputs = {
            "tokens": torch.from_numpy(tokens),
            "documents": Documents.of(torch.from_numpy(numbers)),
            "examples": torch.arange(verses.size).view(verses.shape),
        }
        labels = {
            "kinds": torch.from_numpy(np.concatenate([packed.examples.kinds for packed in packs])),
            "pack": torch.from_numpy(pack_of),
            "weights": torch.from_numpy(weights.astype(np.float32)),
        }
        return Batch(inputs, labels, sum(ends))

    def outputs(self, model: Model, task: str, examples: Examples) -> NDArray[np.float32]:
        """Return the output of a task's head for each example, in order, on every rank. Each must fit in a pack."""
        packs = self.pack(examples)
        batches = [partial(self.collate, [packed]) for packed in packs]
        return model.outputs(task, batches, [packed.numbers for packed in packs])


class VerseTask(Task):
    """A task whose examples are verses. Its packs are a pure function of (seed, position)."""

    share_too_long: float
    """Share of the task's examples that fit in no pack, measured on some."""

    def __init__(self, verses: VerseTable, seq_len: int, rows_per_pack: int, seed: int) -> None:
        """Called by a task that can already draw. Raises Unavailable if no example it draws fits in a pack."""
        self.verses, self.rows_per_pack, self.seed = verses, rows_per_pack, seed
        self.packer = Packer(verses, seq_len, rows_per_pack)
        self._block = lru_cache(maxsize=4)(self._plan_block)
        drawn = self.draw("probe", CHUNK)
        if not len(drawn.verses):
            raise Unavailable(f"no example can be made of the {'/'.join(verses.tiers)} verses")
        n_packed = sum(len(packed.numbers) for packed in self.packer.pack(drawn))
        if not n_packed:
            raise Unavailable(
                f"no {drawn.verses.shape[1]} verses of an example fit together in {rows_per_pack} rows of {seq_len} "
                "tokens; raise batch.seq_len or batch.micro_batch_size"
            )
        self.share_too_long = 1 - n_packed / len(drawn.verses)

    @abstractmethod
    def draw(self, key: str, n: int) -> Examples:
        """Return n examples, or fewer where some cannot be completed; a pure function of (seed, key)."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean over the packs of each pack's mean loss, and which examples are right, bool [n]."""

    def collate(self, packs: Sequence[Pack]) -> Batch:
        """Return the batch of these packs, as `loss` takes it."""
        return self.packer.collate(packs)

    def batch(self, positions: range) -> Batch:
        """Return the packs whose rows are these positions, which are aligned to rows_per_pack."""
        rows = self.rows_per_pack
        assert positions.start % rows == len(positions) % rows == 0, "whole packs"
        numbers = range(positions.start // rows, positions.stop // rows)
        return self.collate([self._block(number // BLOCK)[number % BLOCK] for number in numbers])

    def bits(self, key: str, n_rows: int, n: int) -> NDArray[np.uint64]:
        """Return random bits of this task, seed and key, [n_rows, n]."""
        return keyed_bits(f"{self.name}/{self.seed}/{key}", n_rows * n).reshape(n_rows, n)

    def _plan_block(self, block: int) -> list[Pack]:
        chunks = (self.draw(f"{block}/{chunk}", CHUNK) for chunk in itertools.count())
        return list(itertools.islice(self.packer.stream(chunks), BLOCK))


def rows_per_pack(seq_len: int, micro_batch_size: int) -> int:
    """Return the fewest rows with PACK_TOKENS tokens that divide a micro-batch, or all of its rows."""
    divisors = (rows for rows in range(1, micro_batch_size) if micro_batch_size % rows == 0)
    return next((rows for rows in divisors if rows * seq_len >= PACK_TOKENS), micro_batch_size)


def below(bits: NDArray[np.uint64], limits: ArrayLike) -> NDArray[np.int64]:
    """Return random whole numbers from 0 to limits - 1, of the shape of the bits."""
    return (bits % np.asarray(limits, np.uint64)).astype(np.int64)


def choose(bits: NDArray[np.uint64], weights: NDArray[np.integer[Any] | np.bool_]) -> NDArray[np.int64]:
    """Return a column [n] for each row of weights [n, c], drawn with these weights: whole numbers, some positive."""
    cumulative = np.cumsum(weights, axis=1, dtype=np.int64)
    columns: NDArray[np.int64] = (cumulative <= below(bits, cumulative[:, -1])[:, None]).sum(1)
    return columns


def apportion(bits: NDArray[np.uint64], weights: ArrayLike) -> NDArray[np.int64]:
    """Return n numbers below len(weights) in random order, each as often as its weight says, to within one."""
    limits = np.cumsum(weights, dtype=np.float64)
    offset = float(bits[0] % 2**32) / 2**32
    points = (np.argsort(bits, kind="stable") + offset) / len(bits)
    return np.searchsorted(limits[:-1] / limits[-1], points, side="right")
