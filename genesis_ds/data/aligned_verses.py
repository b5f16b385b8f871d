"""Verses that several languages have, chosen to measure how a model's hidden states align and cluster."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.errors import Unavailable, UserError, nearest
from genesis_ds.tokenizer import Tokenizer

PREFERRED = ("en", "es", "ko")
FEWEST = 16
"""Verses in each half of an alignment; with fewer a rotation is no more than noise."""
MEASURED = 100
"""Verses on which an alignment is measured, where there are so many: retrieval is easier among fewer."""
FEWEST_OF_CONCEPT = 8


@dataclass(frozen=True)
class ParallelVerses:
    """The same n verses in each of l languages."""

    table: VerseTable
    languages: list[str]
    rows: NDArray[np.int64]
    """[l, n]: indices into the table."""
    groups: NDArray[np.int64]
    """[n]: for an alignment 0 for verses it is fitted on and 1 for those it is measured on; else the concept."""

    @property
    def verse_ids(self) -> NDArray[np.int32]:
        """[n] int32: the id of each verse."""
        ids: NDArray[np.int32] = self.table.verse_ids[self.rows[0]]
        return ids

    def texts(self, tokenizer: Tokenizer) -> list[list[str]]:
        """Return the text of each verse, n for each language."""
        return [self.table.texts(rows, tokenizer) for rows in self.rows]


def choose_languages(known: Sequence[str], wanted: Sequence[str], key: str) -> list[str]:
    """Return the wanted languages of a run; by default those of en, es and ko that it has, or its first three.

    key: the field that names them. Raises UserError for one that the run does not have.
    """
    for language in wanted:
        if language not in known:
            raise UserError(f"{key}: the run has no language '{language}'; {nearest(language, known)}")
    preferred = [language for language in PREFERRED if language in known]
    return list(dict.fromkeys(wanted)) or (preferred if len(preferred) > 1 else list(known[:3]))


def halves(table: VerseTable, languages: Sequence[str], max_verses: int) -> ParallelVerses:
    """Choose as many verses of one half of the chapters as of the other, max_verses in all (0: no limit).

    Of the half that is measured no more than MEASURED are taken. Raises Unavailable where there are too few.
    """
    ids, rows = _in_all(table, languages)
    order = keyed_permutation("alignment/verses", len(ids))
    chapters = np.unique(ids // 1000)
    fit_chapters = chapters[keyed_permutation("alignment/chapters", len(chapters))[::2]]
    fitted = np.isin(ids[order] // 1000, fit_chapters)
    parts = order[fitted], order[~fitted]
    n = min(len(parts[0]), len(parts[1]), max_verses // 2 or len(ids))
    if n < FEWEST:
        raise Unavailable(
            f"{' and '.join(languages)} share {len(ids):,} verses of {'/'.join(table.tiers)} in {len(chapters)} "
            f"chapters; needed are {FEWEST} in each half of the chapters"
        )
    fit, test = parts[0][:n], parts[1][: min(n, MEASURED)]
    groups = np.repeat([0, 1], [len(fit), len(test)])
    return ParallelVerses(table, list(languages), rows[:, np.concatenate([fit, test])], groups)


def of_most(
    table: VerseTable, languages: Sequence[str], choose: Callable[[Sequence[str]], ParallelVerses]
) -> ParallelVerses:
    """Choose verses for as many of the languages as share enough, so that all are measured on the same verses.

    choose: languages -> verses that they share; raises Unavailable for too few. Left out is one language after the
    other, that which shares fewest verses with those that remain. Raises Unavailable where the last two share too few.
    """
    kept = list(languages)
    while True:
        try:
            return choose(kept)
        except Unavailable:
            if len(kept) < 3:
                raise
        ids = np.unique(table.verse_ids)
        there = np.stack([table.find(table.labels.index(language), ids) >= 0 for language in kept]).astype(np.int64)
        shared = there @ there.T
        del kept[int((shared.sum(1) - shared.diagonal()).argmin())]


def n_shared(table: VerseTable, languages: Sequence[str]) -> int:
    """Return the number of verses that all the languages have."""
    return len(_in_all(table, languages)[0])


def verses_of_concepts(
    table: VerseTable, languages: Sequence[str], concept_of: Mapping[int, str], max_verses: int
) -> ParallelVerses:
    """Choose verses of each concept, max_verses in all and equally many of each at most (0: no limit).

    Concepts with too few verses are left out. Raises Unavailable unless two are left.
    """
    ids, rows = _in_all(table, languages)
    order = keyed_permutation("clustering/verses", len(ids))
    named = np.array([concept_of.get(verse, "") for verse in ids[order].tolist()])
    found = {concept: order[named == concept] for concept in sorted(set(concept_of.values()))}
    kept = {concept: indices for concept, indices in found.items() if len(indices) >= FEWEST_OF_CONCEPT}
    if len(kept) < 2:
        counts = ", ".join(f"{concept} {len(indices)}" for concept, indices in found.items()) or "no concept at all"
        raise Unavailable(
            f"of the {len(ids):,} verses of {'/'.join(table.tiers)} that {' and '.join(languages)} share, too few are "
            f"of a concept ({counts}); needed are two concepts with {FEWEST_OF_CONCEPT} or more"
        )
    limit = max_verses // len(kept) or len(ids)
    chosen = [indices[:limit] for indices in kept.values()]
    groups = np.repeat(np.arange(len(kept)), [len(indices) for indices in chosen])
    return ParallelVerses(table, list(languages), rows[:, np.concatenate(chosen)], groups)


def _in_all(table: VerseTable, languages: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids [n] that all the languages have, ascending, and their indices [l, n]."""
    numbers = [table.labels.index(language) for language in languages]
    ids = functools.reduce(np.intersect1d, [table.verse_ids[table.languages == number] for number in numbers])
    return ids, table.find(np.array(numbers)[:, None], ids)
