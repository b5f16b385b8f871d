"""What cross-references and paraphrases are judged by: find the right verse among many by its cosine to a query."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.references import CHAPTERS
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.verse_table import BOOK, VerseTable

RECALL_AT = 10
N_BOOKS = len(CHAPTERS)


@dataclass(frozen=True)
class Retrieval:
    """q queries over one table of verses."""

    queries: NDArray[np.int64]
    """[q]: indices into the table."""
    targets: NDArray[np.int64]
    """[q]: the verse each should find."""
    candidates: list[NDArray[np.int64]]
    """For each query the verses it is looked for among; its target is one of them, the query itself is not."""

    @property
    def verses(self) -> NDArray[np.int64]:
        """All verses that need an embedding, ascending."""
        return np.unique(np.concatenate([self.queries, self.targets, *self.candidates]))

    def ranks(self, embeddings: NDArray) -> NDArray[np.float64]:
        """The rank of each target by cosine, from 1, given unit vectors [len(verses), P]."""
        rows = dict(zip(self.verses.tolist(), embeddings, strict=True))
        return self.ranks_by(lambda query, others: np.stack([rows[i] for i in others.tolist()]) @ rows[int(query)])

    def ranks_of(self, scores: NDArray) -> NDArray[np.float64]:
        """The rank of each target, given one score for each verse of the table, whatever the query."""
        return self.ranks_by(lambda query, others: scores[others])

    def ranks_by(self, score: Callable[[np.int64, NDArray[np.int64]], NDArray]) -> NDArray[np.float64]:
        """The rank of each target, from 1, by a score of candidates for a query; ties share their mean rank."""
        found = np.empty(len(self.queries))
        for number, (query, target) in enumerate(zip(self.queries, self.targets, strict=True)):
            scores = score(query, self.candidates[number])
            own = scores[self.candidates[number] == target][0]
            found[number] = 1 + (scores > own).sum() + ((scores == own).sum() - 1) / 2
        return found

    def chance_ranks(self) -> Iterator[NDArray[np.float64]]:
        """For each query the ranks its target has by chance, all equally likely: 1 to the number of candidates."""
        return (np.arange(1.0, len(others) + 1) for others in self.candidates)

    def per_verse(self, values: NDArray) -> NDArray[np.float64]:
        """The mean of values [q] for each verse that asks: one that is linked with several is one trial."""
        _, asking = np.unique(self.queries, return_inverse=True)
        return np.bincount(asking, values) / np.bincount(asking)


def cross_reference_retrieval(
    verses: VerseTable, in_tier: NDArray[np.int32], links: CrossReferences, max_verses: int
) -> Retrieval:
    """From a verse of a tier to one it is linked with, among all verses of that one's book.

    verses: of all tiers; those of its first language are asked. in_tier: ids of the queries' tier. No pair is one that
    was trained on, as that needs both verses in train. The other verses linked with the query are no candidates
    (filtered ranking, as in Bordes et al., NeurIPS 2013). At most max_verses are needed in all (0: no limit): books are
    taken up in order of links asked for per verse, so that a limit asks as much as it can.
    """
    pairs = _pairs(links)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    found = verses.find(0, pairs)
    usable = (found >= 0).all(1) & (pairs % 1000 > 0).all(1)
    pairs, found = pairs[usable], found[usable]
    asked = np.isin(pairs[:, 0], in_tier)
    verse_books = np.where((verses.languages == 0) & (verses.verse_ids % 1000 > 0), verses.verse_ids // BOOK, 0)
    target_books = np.where(asked, pairs[:, 1] // BOOK, 0)
    sizes, links_asked = (np.bincount(books, minlength=N_BOOKS + 1) for books in (verse_books, target_books))
    needed: set[int] = set()
    kept, candidates = [], []
    for book in sorted(np.unique(target_books[asked]).tolist(), key=lambda book: -links_asked[book] / sizes[book]):
        rows = np.flatnonzero(target_books == book)
        in_book = np.flatnonzero(verse_books == book)
        more = needed.union(in_book.tolist(), found[rows, 0].tolist())
        if max_verses and len(more) > max_verses:
            continue
        needed = more
        for query, target in found[rows].tolist():
            related = found[found[:, 0] == query, 1]
            others = in_book[~np.isin(in_book, related[related != target]) & (in_book != query)]
            kept.append((query, target))
            candidates.append(others)
    chosen = np.array(kept, np.int64).reshape(-1, 2)
    return Retrieval(chosen[:, 0], chosen[:, 1], candidates)


def _pairs(links: CrossReferences) -> NDArray[np.int32]:
    """[m, 2]: the links between two verses, each once, the lower id first."""
    ends = np.sort(np.stack([links.from_ids, links.to_ids], axis=1), axis=1)
    return np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0).reshape(-1, 2)


def trained_links(verses: VerseTable, train: NDArray[np.int32], links: CrossReferences) -> NDArray[np.int64]:
    """How many links each verse of the table has in training: a score that knows nothing of any text.

    Few verses are linked at all, so that ranking by it is far better than chance (on the fetched corpus its mean
    reciprocal rank is five times chance's): a model has learnt something of the texts when it does better than this.
    """
    ends = _pairs(links)
    ends = ends[np.isin(ends, train).all(1)]
    ids, counts = np.unique(ends, return_counts=True)
    index = np.searchsorted(ids, verses.verse_ids).clip(max=max(0, len(ids) - 1))
    return np.where(ids[index] == verses.verse_ids, counts[index], 0) if len(ids) else np.zeros(len(verses), np.int64)


def paraphrase_retrievals(verses: VerseTable, max_verses: int) -> dict[str, Retrieval]:
    """From each verse to itself in another language, among all the verses asked: the first language with each other.

    Both ways, under names such as en-es and es-en. verses: of one tier. At most max_verses are needed in all (0: no
    limit), the same ids in every language that has them.
    """
    first = np.flatnonzero(verses.languages == 0)
    ids = verses.verse_ids[first]
    ids = ids[np.argsort(keyed_bits("evaluation/paraphrase", len(ids)), kind="stable")]
    if max_verses:
        ids = ids[: max(2, max_verses // len(verses.labels))]
    retrievals = {}
    for language, label in enumerate(verses.labels[1:], 1):
        there = verses.find(language, ids)
        here, there = verses.find(0, ids)[there >= 0], there[there >= 0]
        if len(here) > 1:
            names = f"{verses.labels[0]}-{label}", f"{label}-{verses.labels[0]}"
            for name, queries, targets in ((names[0], here, there), (names[1], there, here)):
                retrievals[name] = Retrieval(queries, targets, [targets] * len(targets))
    return retrievals
