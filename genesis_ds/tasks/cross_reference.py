"""Cross-references: a verse is closer to one it is linked with than to the neighbours of that one."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from genesis_ds import metrics
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.data.token_set import KEPT_TIERS
from genesis_ds.data.verse_table import BOOK, VerseTable
from genesis_ds.errors import Unavailable
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.contrast import Contrast, ContrastTask
from genesis_ds.tasks.retrieval import POOL, Measure, Question, Retrieval, RetrievalRanks, equal_pools
from genesis_ds.tasks.verse_task import Examples, Packer, below, choose

REACH = 10
"""Verses before and after the positive among which its negative is drawn."""
RECALL_AT = 10
MEASURES: dict[str, Measure] = {
    "mrr": lambda ranks: 1 / ranks,
    f"recall_at_{RECALL_AT}": lambda ranks: ranks <= RECALL_AT,
}
"""Measures of the ranks of the verses to find."""


class CrossReference(ContrastTask):
    """The task of cross-references: anchor and positive are the ends of a link, either way, in a language with both.

    The negative stands near the positive in its book and is not within two hops of the anchor over all links. It is
    drawn in proportion to its own links between these verses, so that being linked often does not tell a positive from
    a negative; where none of those near is linked, all are equally likely.
    """

    name = "cross_reference"
    kinds = ("near_positive",)

    @classmethod
    def build(cls, context: TaskContext) -> "CrossReference":
        return cls(
            context.verses("train"),
            seq_len=context.seq_len,
            rows_per_pack=context.rows_per_pack,
            seed=context.seed,
            links=context.links,
            contrast=Contrast.of(context.options),
        )

    def __init__(
        self,
        verses: VerseTable,
        seq_len: int,
        rows_per_pack: int,
        seed: int,
        *,
        links: CrossReferences,
        contrast: Contrast,
    ) -> None:
        """Raises Unavailable when no language holds both verses of a link."""
        ends = _pairs(links)
        pairs = np.stack([verses.find(language, ends) for language in range(len(verses.labels))], axis=1)
        held = np.all(pairs >= 0, axis=2) & np.all(ends % 1000 > 0, axis=1)[:, None]
        usable = held.any(1)
        if not usable.any():
            remedy = "give data.cross_references an OpenBible.info file, or fetch a corpus that has some"
            remedy = verses.remedy(remedy) if len(links) else remedy
            raise Unavailable(f"no cross-references between {'/'.join(verses.tiers)} verses; {remedy}")
        self.pairs, self.held = pairs[usable], held[usable]
        nodes = np.union1d(ends, verses.verse_ids)
        self.node = np.searchsorted(nodes, verses.verse_ids)
        self.neighbours = _neighbours(np.searchsorted(nodes, ends), len(nodes))
        self.n_links = np.bincount(np.searchsorted(nodes, ends[usable]).ravel(), minlength=len(nodes))
        super().__init__(verses, seq_len, rows_per_pack, seed, contrast=contrast)

    def draw(self, key: str, n: int) -> Examples:
        """Return n triplets, without those of which all verses near the positive are related to the anchor."""
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
        """Return which verses are within two hops of the anchor, in whatever language: they share a neighbour.

        Each verse is a neighbour of its own.
        """
        pairs = np.broadcast_arrays(anchors[:, None], others)
        near_anchor, near_other = (self.neighbours[self.node[verses.ravel()]] for verses in pairs)
        shared: NDArray[np.bool_] = (near_anchor.multiply(near_other).sum(1) > 0).reshape(pairs[0].shape)
        return shared

    def evaluation(self, context: TaskContext) -> RetrievalRanks:
        """Return the evaluation in the first language: mean reciprocal rank and recall, beside those by links alone."""
        tables = {split: _among(tier, context) for split, tier in context.splits.items()}
        found = {}
        for split, tier in context.splits.items():
            asking, limit = context.verses(tier).verse_ids, context.evaluation.max_verses
            retrieval = cross_reference_retrieval(tables[split], asking, context.links, limit)
            found[split, tables[split].labels[0]] = retrieval
        questions = [
            Question(
                split=split,
                task=self.name,
                among=language,
                packer=Packer(tables[split], context.seq_len, context.micro_batch_size),
                retrieval=retrieval,
                measures=MEASURES,
                references={
                    metrics.BY_LINKS: retrieval.ranks_of(
                        trained_links(tables[split], self.verses.verse_ids, context.links)
                    )
                },
            )
            for (split, language), retrieval in equal_pools(found).items()
        ]
        return RetrievalRanks(questions, context)

    def _near(self, positives: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the verses before and after each positive, [n, 2 REACH]; -1 outside its book and for chapter rows."""
        keys = self.verses.keys
        wanted = positives[:, None] + np.r_[-REACH:0, 1 : REACH + 1]
        index = wanted.clip(0, len(keys) - 1)
        same_book = keys[index] // BOOK == keys[positives, None] // BOOK
        return np.where((index == wanted) & same_book & (keys[index] % 1000 > 0), index, -1)


def _neighbours(links: NDArray[np.int64], n: int) -> csr_array:
    """Return which nodes 0..n-1 are linked by links [m, 2], bool [n, n], each node with itself as well."""
    rows = np.concatenate([links[:, 0], links[:, 1], np.arange(n)])
    columns = np.concatenate([links[:, 1], links[:, 0], np.arange(n)])
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))


def _among(tier: str, context: TaskContext) -> VerseTable:
    """Return the verses among which those of a tier ask: training among itself, validation among all."""
    return context.verses(tier) if tier == "train" else context.verses(*KEPT_TIERS)


def cross_reference_retrieval(
    verses: VerseTable, in_tier: NDArray[np.int32], links: CrossReferences, max_verses: int
) -> Retrieval:
    """Return the search from a verse of a tier for one it is linked with, among POOL verses, sampled by key.

    They are of that one's book, and of others where it has too few. verses: of all tiers; those of its first language
    are asked. in_tier: ids of the queries' tier. No pair is one that was trained on, as that needs both verses in
    train. The other verses linked with the query are no candidates (filtered ranking, as in Bordes et al., NeurIPS
    2013). At most max_verses are needed in all (0: no limit), and no more than half as many are candidates: books are
    taken up in order of links asked for, and each verse is asked for one link to a book, so that a limit asks of as
    many verses as it can.
    """
    pairs = _pairs(links)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    found = verses.find(0, pairs)
    usable = (found >= 0).all(1) & (pairs % 1000 > 0).all(1)
    pairs, found = pairs[usable], found[usable]
    asked = np.isin(pairs[:, 0], in_tier)
    (among,) = np.nonzero((verses.languages == 0) & (verses.verse_ids % 1000 > 0))
    among = among[keyed_permutation("evaluation/cross_reference", len(among))]
    books, target_books = verses.verse_ids[among] // BOOK, np.where(asked, pairs[:, 1] // BOOK, 0)
    links_asked = np.bincount(target_books)
    n_candidates = min(POOL, max_verses // 2) if max_verses else POOL
    needed: set[int] = set()
    kept, candidates = [], []
    for book in sorted(np.unique(target_books[asked]).tolist(), key=lambda book: -links_asked[book]):
        nearest = np.concatenate([among[books == book], among[books != book]])
        rows = np.flatnonzero(target_books == book)
        rows = rows[keyed_permutation("evaluation/cross_reference", len(rows))]
        if max_verses:
            rows = rows[np.sort(np.unique(found[rows, 0], return_index=True)[1])]
        for query, target in found[rows].tolist():
            related = np.append(found[found[:, 0] == query, 1], query)
            pool = nearest[: n_candidates + len(related)]
            pool = np.append(target, pool[~np.isin(pool, related)])[:n_candidates]
            if max_verses:
                more = needed.union([query, *pool.tolist()])
                if len(more) > max_verses:
                    break
                needed = more
            kept.append((query, target))
            candidates.append(pool)
    chosen = np.array(kept, np.int64).reshape(-1, 2)
    return Retrieval(chosen[:, 0], chosen[:, 1], candidates)


def _pairs(links: CrossReferences) -> NDArray[np.int32]:
    """Return the links between two verses, [m, 2], each once, the lower id first."""
    ends = np.sort(np.stack([links.from_ids, links.to_ids], axis=1), axis=1)
    return np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0).reshape(-1, 2)


def trained_links(verses: VerseTable, train: NDArray[np.int32], links: CrossReferences) -> NDArray[np.int64]:
    """Return how many links each verse of the table has in training: a score that knows nothing of any text.

    Few verses are linked at all, so that ranking by it is far better than chance (on the fetched corpus its mean
    reciprocal rank is five times chance's): a model has learnt something of the texts when it does better than this.
    """
    ends = _pairs(links)
    ends = ends[np.isin(ends, train).all(1)]
    ids, counts = np.unique(ends, return_counts=True)
    index = np.searchsorted(ids, verses.verse_ids).clip(max=max(0, len(ids) - 1))
    return np.where(ids[index] == verses.verse_ids, counts[index], 0) if len(ids) else np.zeros(len(verses), np.int64)
