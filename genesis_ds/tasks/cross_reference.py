"""Cross-references: a verse is closer to one it is linked with than to the neighbours of that one."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.verse_table import BOOK, VerseTable
from genesis_ds.tasks.base import Unavailable
from genesis_ds.tasks.contrast import Contrast, ContrastTask
from genesis_ds.tasks.verse_task import Examples, below, choose

REACH = 10
"""Verses before and after the positive among which its negative is drawn."""


class CrossReference(ContrastTask):
    """Anchor and positive are the ends of a link, in either direction, in a language that holds both.

    The negative stands near the positive in its book and is not within two hops of the anchor over all links. It is
    drawn in proportion to its own links between these verses, so that being linked often does not tell a positive from
    a negative; where none of those near is linked, all are equally likely.
    """

    name = "cross_reference"
    kinds = ("near_positive",)

    def __init__(
        self,
        verses: VerseTable,
        seq_len: int,
        rows_per_pack: int,
        seed: int,
        links: CrossReferences,
        contrast: Contrast,
    ) -> None:
        """Raises Unavailable when no language holds both verses of a link."""
        ends = np.sort(np.stack([links.from_ids, links.to_ids], axis=1))
        ends = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0)
        pairs = np.stack([verses.find(language, ends) for language in range(len(verses.labels))], axis=1)
        held = np.all(pairs >= 0, axis=2) & np.all(ends % 1000 > 0, axis=1)[:, None]
        usable = held.any(1)
        if not usable.any():
            raise Unavailable(
                f"no cross-references between {'/'.join(verses.tiers)} verses; give data.cross_references an "
                "OpenBible.info file, or fetch a corpus that has some"
            )
        self.pairs, self.held = pairs[usable], held[usable]
        nodes = np.union1d(ends, verses.verse_ids)
        self.node = np.searchsorted(nodes, verses.verse_ids)
        self.neighbours = _neighbours(np.searchsorted(nodes, ends), len(nodes))
        self.n_links = np.bincount(np.searchsorted(nodes, ends[usable]).ravel(), minlength=len(nodes))
        super().__init__(verses, seq_len, rows_per_pack, seed, contrast)

    def draw(self, key: str, n: int) -> Examples:
        """n triplets, without those of which all verses near the positive are related to the anchor."""
        bits = self.bits(key, 4, n)
        pair = below(bits[0], len(self.pairs))
        ends = self.pairs[pair, choose(bits[1], self.held[pair])]
        turned = below(bits[2], 2)
        anchor, positive = ends[np.arange(n), turned], ends[np.arange(n), 1 - turned]
        near = self._near(positive)
        allowed = (near >= 0) & ~self.related(anchor, near)
        weights = allowed * self.n_links[self.node[near]]
        weights = np.where(weights.any(1, keepdims=True), weights, allowed)
        complete = allowed.any(1)
        column = choose(bits[3, complete], weights[complete])
        verses = np.stack([anchor[complete], positive[complete], near[complete, column]], axis=1)
        return Examples(verses, np.zeros(len(verses), np.int64))

    def related(self, anchors: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Within two hops of the anchor, in whatever language: they share a neighbour, each being one of its own."""
        pairs = np.broadcast_arrays(anchors[:, None], others)
        near_anchor, near_other = (self.neighbours[self.node[verses.ravel()]] for verses in pairs)
        return (near_anchor.multiply(near_other).sum(1) > 0).reshape(pairs[0].shape)

    def _near(self, positives: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n, 2 REACH]: the verses before and after each positive; -1 outside its book and for chapter rows."""
        keys = self.verses.keys
        wanted = positives[:, None] + np.r_[-REACH:0, 1 : REACH + 1]
        index = wanted.clip(0, len(keys) - 1)
        same_book = keys[index] // BOOK == keys[positives, None] // BOOK
        return np.where((index == wanted) & same_book & (keys[index] % 1000 > 0), index, -1)


def _neighbours(links: NDArray[np.int64], n: int) -> csr_array:
    """bool [n, n]: of links [m, 2] between nodes 0..n-1, which nodes are linked; and each node with itself."""
    rows = np.concatenate([links[:, 0], links[:, 1], np.arange(n)])
    columns = np.concatenate([links[:, 1], links[:, 0], np.arange(n)])
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
