"""Paraphrase: a verse is closer to itself in another language than to its neighbours there."""

import itertools

import numpy as np
from numpy.typing import NDArray

from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.verse_table import BOOK, VerseTable
from genesis_ds.errors import Unavailable
from genesis_ds.tasks.base import TaskContext
from genesis_ds.tasks.contrast import Contrast, ContrastTask
from genesis_ds.tasks.retrieval import FEWEST, POOL, Measure, Question, Retrieval, RetrievalRanks, equal_pools
from genesis_ds.tasks.verse_task import Examples, Packer, apportion, below, choose

DISTANCES = (1, 2, 3)
MEASURES: dict[str, Measure] = {"retrieval_at_1": lambda ranks: ranks <= 1}
"""Measures of the ranks of the verses to find."""


class Paraphrase(ContrastTask):
    """The task of paraphrase: the anchor is a verse (or chapter row), the positive the same in another language.

    The negative stands 1, 2 or 3 places before or after the positive in its book. Ordered pairs of languages are
    equally likely, then the verses they share of which there is such a negative.
    """

    name = "paraphrase"
    kinds = tuple(f"distance_{distance}" for distance in DISTANCES)

    @classmethod
    def build(cls, context: TaskContext) -> "Paraphrase":
        return cls(
            context.verses("train"),
            seq_len=context.seq_len,
            rows_per_pack=context.rows_per_pack,
            seed=context.seed,
            contrast=Contrast.of(context.options),
        )

    def __init__(self, verses: VerseTable, seq_len: int, rows_per_pack: int, seed: int, *, contrast: Contrast) -> None:
        """Raises Unavailable with fewer than two languages, or when they share no verse that has neighbours."""
        if len(verses.labels) < 2:
            raise Unavailable(f"the only language is {verses.labels[0]}; give data.languages two or more")
        languages = range(len(verses.labels))
        ids = np.unique(verses.verse_ids)
        self.index = np.stack([verses.find(language, ids) for language in languages])
        self.sides = np.stack([_sides(verses.keys, distance) for distance in DISTANCES])
        self.usable = [(self.index >= 0) & sides.any(1)[self.index] for sides in self.sides]
        ordered = list(itertools.permutations(languages, 2))
        present = (self.index >= 0).astype(np.float32)
        n_shared = [present @ usable.T.astype(np.float32) for usable in self.usable]
        self.pairs = [[pair for pair in ordered if shared[pair]] for shared in n_shared]
        if not any(self.pairs):
            remedy = verses.remedy("import texts that have verses in common")
            raise Unavailable(f"no two languages share {'/'.join(verses.tiers)} verses that have neighbours; {remedy}")
        super().__init__(verses, seq_len, rows_per_pack, seed, contrast=contrast)

    def draw(self, key: str, n: int) -> Examples:
        """Return n triplets, equally many of each kind, a pure function of (seed, key)."""
        bits = self.bits(key, 4, n)
        kinds = apportion(bits[0], [bool(pairs) for pairs in self.pairs])
        pairs = below(bits[1], [len(self.pairs[kind]) for kind in kinds])
        anchor, positive = np.empty((2, n), np.int64)
        for kind, pair in set(zip(kinds.tolist(), pairs.tolist(), strict=True)):
            rows = (kinds == kind) & (pairs == pair)
            first, second = self.pairs[kind][pair]
            shared = self._shared(kind, first, second)
            column = shared[below(bits[2, rows], len(shared))]
            anchor[rows], positive[rows] = self.index[first, column], self.index[second, column]
        side = choose(bits[3], self.sides[kinds, positive])
        negative = positive + np.where(side, 1, -1) * np.take(DISTANCES, kinds)
        return Examples(np.stack([anchor, positive, negative], axis=1), kinds)

    def related(self, anchors: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the others are the same verse as the anchor, in whatever language."""
        ids = self.verses.verse_ids
        same: NDArray[np.bool_] = ids[anchors][:, None] == ids[others]
        return same

    def evaluation(self, context: TaskContext) -> RetrievalRanks:
        """Return the evaluation of whether a verse is the nearest to itself in another language, both ways."""
        tables = {split: context.verses(tier) for split, tier in context.splits.items()}
        found = {
            (split, pair): retrieval
            for split, verses in tables.items()
            for pair, retrieval in paraphrase_retrievals(verses, context.evaluation.max_verses).items()
        }
        questions = [
            Question(
                split=split,
                task=self.name,
                among=pair,
                packer=Packer(tables[split], context.seq_len, context.micro_batch_size),
                retrieval=retrieval,
                measures=MEASURES,
            )
            for (split, pair), retrieval in equal_pools(found).items()
        ]
        return RetrievalRanks(questions, context)

    def _shared(self, kind: int, first: int, second: int) -> NDArray[np.int64]:
        """Return the columns of `index` that two languages share and whose negative of this kind the second has."""
        return np.flatnonzero((self.index[first] >= 0) & self.usable[kind][second])


def _sides(keys: NDArray[np.int64], distance: int) -> NDArray[np.bool_]:
    """Return whether the verses at this distance before and after each are of its language and book, bool [n, 2]."""
    same = keys[distance:] // BOOK == keys[:-distance] // BOOK
    sides = np.zeros((len(keys), 2), bool)
    sides[distance:, 0] = sides[:-distance, 1] = same
    return sides


def paraphrase_retrievals(verses: VerseTable, max_verses: int) -> dict[str, Retrieval]:
    """Return the searches from each verse for itself in another language: the first with each other one, both ways.

    Their names are such as en-es and es-en; the candidates are POOL of the verses asked, sampled by key. verses: of one
    tier. At most max_verses are needed in all (0: no limit), the same ids in every language that has them, and no fewer
    than FEWEST.
    """
    first = np.flatnonzero(verses.languages == 0)
    ids = verses.verse_ids[first]
    ids = ids[np.argsort(keyed_bits("evaluation/paraphrase", len(ids)), kind="stable")]
    if max_verses:
        ids = ids[: max(FEWEST, max_verses // len(verses.labels))]
    retrievals = {}
    for language, label in enumerate(verses.labels[1:], 1):
        there = verses.find(language, ids)
        here, there = verses.find(0, ids)[there >= 0], there[there >= 0]
        if len(here) > 1:
            names = f"{verses.labels[0]}-{label}", f"{label}-{verses.labels[0]}"
            for name, queries, targets in ((names[0], here, there), (names[1], there, here)):
                pools = (np.arange(len(targets))[:, None] + np.arange(min(POOL, len(targets)))) % len(targets)
                retrievals[name] = Retrieval(queries, targets, list(targets[pools]))
    return retrievals
