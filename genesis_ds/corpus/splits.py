"""One split of all verse ids, the same for every language and every task.

A verse is validation because of its book or its chapter, never because of a language: two ids split alike whatever
is loaded. Only the tier `dropped` depends on the text (of one translation), and so do the verses it takes away
from the other tiers.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_ds.corpus.references import USFM_CODES, format_reference
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TIERS = ("train", "val_chapter", "val_book", "dropped")
"""Names of the tier codes 0-3."""
TRAIN, VAL_CHAPTER, VAL_BOOK, DROPPED = range(4)

VALIDATION_BOOKS = ("RUT", "EST", "ECC", "LAM", "JON", "JAS", "1JN", "PHP", "GAL")
"""Books without parallels elsewhere: 1.8 % of their verses have a near-duplicate in train (Mark would have 88 %)."""

_BLOCK = 512


@dataclass(frozen=True, eq=False)
class Split:
    """verse_ids: (N,) int32 ascending; tiers: (N,) uint8 codes into `TIERS`; split_seed: what chose the chapters."""

    verse_ids: NDArray[np.int32]
    tiers: NDArray[np.uint8]
    split_seed: int

    def tier_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Return tier codes of verse ids of any shape; an id outside the table is `dropped`."""
        ids = np.asarray(ids)
        index = np.minimum(np.searchsorted(self.verse_ids, ids), len(self.verse_ids) - 1)
        return np.where(self.verse_ids[index] == ids, self.tiers[index], DROPPED).astype(np.uint8)

    def ids(self, tier: str) -> NDArray[np.int32]:
        """Return the verse ids of a tier, ascending."""
        ids: NDArray[np.int32] = self.verse_ids[self.tiers == TIERS.index(tier)]
        return ids

    def rows(self, tier: str, translation: Translation) -> NDArray[np.int64]:
        """Return the rows of a translation that are in a tier and have text, ascending."""
        in_tier = self.tier_of(translation.verse_ids) == TIERS.index(tier)
        return np.flatnonzero(in_tier & translation.present)

    def counts(self) -> dict[str, int]:
        """Return {tier: number of verses}."""
        return dict(zip(TIERS, np.bincount(self.tiers, minlength=len(TIERS)).tolist(), strict=True))


def split_verses(
    corpus: Corpus, split_seed: int = 0, chapter_fraction: float = 0.1, duplicate_threshold: float = 0.3
) -> Split:
    """Split the union of the corpus's ids (verses, or chapters where only chapter rows exist).

    `val_book` are the nine `VALIDATION_BOOKS`. `val_chapter` are whole chapters of the others, each chosen with
    probability `chapter_fraction` by the blake2b hash of the seed and its reference. Every validation verse with a
    near-duplicate in train (Jaccard of lower-cased word 3-grams >= `duplicate_threshold`) is `dropped` together
    with these duplicates, so no validation verse keeps one. Duplicates are sought in the first English
    translation, else in the first one; in a script written without spaces they are whole phrases, not words. Raises
    UserError for a `chapter_fraction` outside 0 to 1.
    """
    if not 0 <= chapter_fraction <= 1:
        raise UserError(f"chapter_fraction is {chapter_fraction}: allowed are 0 to 1")
    ids = corpus.verse_ids
    tiers = _tiers_by_reference(ids, split_seed, chapter_fraction)
    reference = next((t for t in corpus.translations if t.language.split("-")[0] == "en"), corpus.translations[0])
    index = np.searchsorted(ids, reference.verse_ids)
    leaking = _leaking(reference, tiers[index], duplicate_threshold)
    tiers[index[leaking]] = DROPPED
    return Split(ids, tiers, split_seed)


def _tiers_by_reference(ids: NDArray[np.int32], split_seed: int, fraction: float) -> NDArray[np.uint8]:
    chapters, inverse = np.unique(ids // 1000 * 1000, return_inverse=True)
    tiers = np.zeros(len(chapters), np.uint8)
    for i, chapter in enumerate(chapters.tolist()):
        key = f"{split_seed}:{format_reference(chapter)}".encode()
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
        if USFM_CODES[chapter // 1_000_000 - 1] in VALIDATION_BOOKS:
            tiers[i] = VAL_BOOK
        elif draw < fraction:
            tiers[i] = VAL_CHAPTER
    return tiers[inverse]


def _leaking(translation: Translation, tiers: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    """Return (N,) bool: rows in a near-duplicate pair of one validation and one train row."""
    grams = _gram_matrix(translation.texts)
    sizes = np.diff(grams.indptr)
    train, validation = np.flatnonzero(tiers == TRAIN), np.flatnonzero(tiers != TRAIN)
    leaking = np.zeros(len(translation), bool)
    if not len(train):
        return leaking
    columns = grams[train].T.tocsr()
    for start in range(0, len(validation), _BLOCK):
        rows = validation[start : start + _BLOCK]
        shared = (grams[rows] @ columns).tocoo()
        left, right = rows[shared.row], train[shared.col]
        near = shared.data >= threshold * (sizes[left] + sizes[right] - shared.data)
        leaking[left[near]] = leaking[right[near]] = True
    return leaking


def _gram_matrix(texts: list[str]) -> "csr_matrix":
    """Return an (N, distinct 3-grams) 0/1 matrix; a text of one or two words is one gram."""
    from scipy.sparse import csr_matrix

    numbers: dict[str, int] = {"": 0}
    words = [[numbers.setdefault(word, len(numbers)) for word in re.findall(r"\w+", text.lower())] for text in texts]
    words = [row + [0] * (3 - len(row)) if 0 < len(row) < 3 else row for row in words]
    rows = np.repeat(np.arange(len(texts)), [len(row) for row in words])
    flat = np.fromiter(chain.from_iterable(words), np.int64, len(rows))
    starts = np.flatnonzero(rows[:-2] == rows[2:])
    _, pairs = np.unique(flat[starts] * len(numbers) + flat[starts + 1], return_inverse=True)
    distinct, columns = np.unique(pairs * len(numbers) + flat[starts + 2], return_inverse=True)
    shape = (len(texts), max(len(distinct), 1))
    grams = csr_matrix((np.ones(len(starts), np.int32), (rows[starts], columns)), shape=shape)
    grams.data[:] = 1  # repeated grams have been added up
    return grams
