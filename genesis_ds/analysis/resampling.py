"""Chance and uncertainty of a measure of verses: permutations that keep book or chapter, and a bootstrap of chapters.

Verses of a chapter are alike in topic and style, so neither is judged as if verses were independent draws.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 100
RESAMPLES = 200
PERCENTILES = (2.5, 97.5)
"""Of the resamples: the ends of the interval."""
Z = 1.959964
"""Standard deviations of a 95 % interval."""
TINY = 1e-12
"""A spread below it is rounding."""
FEWEST = 3
"""Verses of a chapter, or of what is left of a book, that are exchanged among themselves."""


def exchangeable(verse_ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return [n]: the block of verses among which the counterpart of each may be exchanged.

    That is its chapter, where 3 of the n verses are of it; else the rest of its book, where that is 3; else all that
    is left.
    """
    chapter, book = verse_ids // 1000, verse_ids // 1_000_000
    small = _size(chapter) < FEWEST
    left = small & (_size(np.where(small, book, -1)) < FEWEST)
    blocks = np.where(left, -1, np.where(small, book, chapter))  # no book has the number of a chapter
    return np.unique(blocks, return_inverse=True)[1].astype(np.int64)


def derangements(blocks: NDArray[np.integer[Any]], n: int = PERMUTATIONS, seed: int = 0) -> NDArray[np.int64]:
    """Return n orders, [n, len(blocks)], that leave everything in its block and, in a block of several, nothing in its
    place; each as likely as any other."""
    return _orders(blocks, n, seed, _derangement)


def permutations(blocks: NDArray[np.integer[Any]], n: int = PERMUTATIONS, seed: int = 0) -> NDArray[np.int64]:
    """Return n orders, [n, len(blocks)], that leave everything in its block; each as likely as any other."""
    return _orders(blocks, n, seed, lambda generator, size: generator.permutation(size))


def chapter_counts(chapters: NDArray[np.integer[Any]], n: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Return how often each verse is drawn, [n, len(chapters)], where chapters are drawn with replacement n times.

    Efron & Tibshirani (1993), with chapters as the units.
    """
    names, chapter = np.unique(chapters, return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return counts[:, chapter].astype(np.int64)


def z_score(value: float, null: NDArray[np.floating[Any]]) -> float:
    """Return by how many standard deviations a value lies above the mean of what chance gives.

    nan where chance always gives the same: then it has no such scale.
    """
    spread = null.std(ddof=1)
    return float((value - null.mean()) / spread) if spread > TINY else float("nan")


def interval(resampled: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of resampled values."""
    low, high = np.percentile(resampled, PERCENTILES)
    return float(low), float(high)


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a mean of n independent values from 0 to 1 (Wilson 1927).

    That of a share; values between 0 and 1 vary less, so that it is no narrower than theirs. Its half is at most 0.05
    from n = 381 on.
    """
    centre, spread = (mean + Z**2 / (2 * n)), Z * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    return (centre - spread) / (1 + Z**2 / n), (centre + spread) / (1 + Z**2 / n)


def _size(groups: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return [n]: how many have the group of each."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sizes: NDArray[np.integer[Any]] = counts[group]
    return sizes


def _orders(
    blocks: NDArray[np.integer[Any]], n: int, seed: int, order: Callable[[np.random.Generator, int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(blocks)), (n, 1))
    for block in np.unique(blocks):
        (members,) = np.nonzero(blocks == block)
        for row in orders:
            row[members] = members[order(generator, len(members))]
    return orders


def _derangement(generator: np.random.Generator, n: int) -> NDArray[np.int64]:
    order = generator.permutation(n)
    while n > 1 and (order == np.arange(n)).any():  # 1/e of all permutations have no fixed point
        order = generator.permutation(n)
    return order
