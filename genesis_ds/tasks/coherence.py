"""Coherence: does the second verse of a pair follow the first?

Every first verse has a successor among the verses and every second one a predecessor, whatever the label, so that
neither of them alone tells it.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.data.verse_table import BOOK, LANGUAGE, VerseTable
from genesis_ds.tasks.base import Batch, Unavailable
from genesis_ds.tasks.verse_task import Examples, VerseTask, apportion, below

NEGATIVES = {"same_chapter": 0.4, "near_chapter": 0.3, "swapped": 0.15, "other_book": 0.15}
"""Shares of the negatives; the share of a kind that the verses do not allow goes to the others."""
APART = 3
"""Least distance in verses of a same_chapter pair."""
NEAR_CHAPTERS = 2
"""How many chapters before and after its own a near_chapter pair reaches, of those with second verses in the book."""


class Coherence(VerseTask):
    """Pairs of verses of one language, half of them positive: (v, v + 1).

    Negatives: v and a verse at least APART from it in its chapter; v and one of a near chapter of its book; (v, v - 1);
    v and one of another book. v is uniform among the verses of which there is a pair of this kind.
    """

    name = "coherence"
    kinds = ("consecutive", *NEGATIVES)

    def __init__(self, verses: VerseTable, seq_len: int, rows_per_pack: int, seed: int) -> None:
        """Raises Unavailable when no two verses are consecutive, or no pair is a negative."""
        keys, tiers = verses.keys, "/".join(verses.tiers)
        self.firsts = np.flatnonzero((np.diff(keys) == 1) & (keys[:-1] % 1000 > 0))
        self.seconds = self.firsts + 1
        if len(keys) and not (keys % 1000).any():
            raise Unavailable("the corpus holds whole chapters and no verses; import a text by verses")
        if not len(self.firsts):
            raise Unavailable(f"no two {tiers} verses are consecutive; import a more complete text")
        self.ranges = _ranges(keys[self.firsts], keys[self.seconds])
        possible = _sizes(self.ranges) > 0
        self.pairs = np.flatnonzero(possible)
        self.n_pairs = possible.sum(1)
        negatives = np.array(list(NEGATIVES.values())) * (self.n_pairs[1:] > 0)
        if not negatives.any():
            raise Unavailable(f"no two {tiers} verses make a negative pair; import a more complete text")
        self.shares = [negatives.sum(), *negatives]
        super().__init__(verses, seq_len, rows_per_pack, seed)

    def draw(self, key: str, n: int) -> Examples:
        """n pairs."""
        bits = self.bits(key, 3, n)
        kinds = apportion(bits[0], self.shares)
        starts = np.cumsum(self.n_pairs) - self.n_pairs
        pairs = self.pairs[starts[kinds] + below(bits[1], self.n_pairs[kinds])]
        ranges = self.ranges.reshape(4, -1)[:, pairs]
        start, _, gap_start, gap_stop = ranges
        second = start + below(bits[2], _sizes(ranges))
        second += (second >= gap_start) * (gap_stop - gap_start)
        first = pairs % len(self.firsts)
        return Examples(np.stack([self.firsts[first], self.seconds[second]], axis=1), kinds)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of logits [n] that the second verse follows the first."""
        follows = batch.labels["kinds"] == 0
        weights = batch.labels["weights"]
        loss = F.binary_cross_entropy_with_logits(output, follows.float(), weights, reduction="sum")
        return loss, (output > 0) == follows


def _ranges(firsts: NDArray[np.int64], seconds: NDArray[np.int64]) -> NDArray[np.int32]:
    """[4, kinds, n]: start, stop, and start and stop of a gap in between: the second verses of each kind of pair.

    firsts [n] and seconds [n] are the ascending keys of the verses that can come first and second.
    """

    def before(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(seconds, keys)

    chapter, book, language = (firsts // size * size for size in (1000, BOOK, LANGUAGE))
    own_chapter = before(chapter), before(chapter + 1000)
    own_book = before(book), before(book + BOOK)
    chapters = np.flatnonzero(np.diff(seconds // 1000, prepend=-1, append=-1))
    own = np.searchsorted(chapters, own_chapter[0])
    near_start = np.maximum(chapters[np.maximum(own - NEAR_CHAPTERS, 0)], own_book[0])
    near_stop = np.minimum(chapters[np.minimum(own + NEAR_CHAPTERS + 1, len(chapters) - 1)], own_book[1])
    no_gap = before(firsts), before(firsts)
    ranges = {
        "consecutive": (before(firsts + 1), before(firsts + 2), *no_gap),
        "same_chapter": (*own_chapter, before(firsts - APART + 1), before(firsts + APART)),
        "near_chapter": (near_start, near_stop, *own_chapter),
        "swapped": (before(firsts - 1), before(firsts), *no_gap),
        "other_book": (before(language), before(language + LANGUAGE), *own_book),
    }
    return np.stack([ranges[kind] for kind in Coherence.kinds], axis=1).astype(np.int32)


def _sizes(ranges: NDArray[np.int32]) -> NDArray[np.int32]:
    start, stop, gap_start, gap_stop = ranges
    return stop - start - (gap_stop - gap_start)
