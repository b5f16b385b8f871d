"""Bits per byte and perplexity of parts of a text, with intervals over its chapters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds.analysis.resampling import chapter_counts, interval

FEWEST = 5
"""Chapters, or lines, of which there is an interval: of four, one in 256 resamples is a single chapter."""
Interval = tuple[float, float]
Members = NDArray[np.int64]
"""Numbers of units."""


@dataclass(frozen=True)
class Rate:
    """How well a model predicts a text."""

    bits_per_byte: float
    """Cross-entropy in bits per UTF-8 byte; nan for no byte."""
    perplexity: float
    """Exponential of the cross-entropy in nats per token; nan for no token."""
    n_tokens: int
    n_bytes: int

    @classmethod
    def of(cls, nats: float, n_tokens: int, n_bytes: int) -> "Rate":
        """Return the rate of a text whose tokens have so many nats together."""
        bits_per_byte = nats / math.log(2) / n_bytes if n_bytes else math.nan
        perplexity = math.exp(min(nats / n_tokens, 700.0)) if n_tokens else math.nan
        return cls(bits_per_byte, perplexity, n_tokens, n_bytes)


@dataclass(frozen=True)
class GroupRate(Rate):
    """How well a model predicts several units together."""

    interval: Interval | None
    """95 %, of the bits per byte."""


@dataclass(frozen=True)
class ComparedRate(GroupRate):
    """The same, beside the first model."""

    difference: float
    """Bits per byte less the first model's."""
    difference_interval: Interval | None


@dataclass(frozen=True)
class Units:
    """The parts of a text that are judged one by one, n of them: verses, lines or texts."""

    parts: list[str]
    """[n]: the language or the file of each."""
    names: list[str]
    """[n]: such as RUT 1:3, or line 12."""
    books: list[str]
    """[n]: empty where there are none."""
    chapters: NDArray[np.int64]
    """[n]: the chapter of each, in whichever language; what an interval draws anew."""
    texts: list[str]
    """[n]"""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Judged:
    """What one model says of the units."""

    nats: NDArray[np.float64]
    n_tokens: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    """[n] each, of what was judged of a unit."""
    is_whole: NDArray[np.bool_]
    """[n]: whether all of it was."""

    def rate(self, members: Members) -> Rate:
        """Return the rate of some units together."""
        return Rate.of(*(values[members].sum().item() for values in (self.nats, self.n_tokens, self.n_bytes)))


def group_rates(found: Sequence[Judged], chapters: NDArray[np.int64], members: Members) -> list[GroupRate]:
    """Return what each model says of some units together, with 95 % intervals over chapters."""
    resampled = [_resampled(judged, chapters, members) for judged in found]
    rates: list[GroupRate] = []
    for judged, values in zip(found, resampled, strict=True):
        rate = GroupRate(**vars(judged.rate(members)), interval=_interval(values))
        if rates:
            less = rate.bits_per_byte - rates[0].bits_per_byte
            of_less = None if values is None or resampled[0] is None else values - resampled[0]
            rate = ComparedRate(**vars(rate), difference=less, difference_interval=_interval(of_less))
        rates.append(rate)
    return rates


def _interval(resampled: NDArray[np.float64] | None) -> Interval | None:
    return None if resampled is None else interval(resampled)


def _resampled(judged: Judged, chapters: NDArray[np.int64], members: Members) -> NDArray[np.float64] | None:
    """Return the bits per byte of resamples of chapters, of equal chapters for every model, in each of which something
    has been judged; None for too few chapters."""
    names, chapter = np.unique(chapters[members], return_inverse=True)
    if len(names) < FEWEST:
        return None
    nats, n_bytes = (np.bincount(chapter, values[members]) for values in (judged.nats, judged.n_bytes))
    counts = chapter_counts(names)
    rates: NDArray[np.float64] = (counts @ nats) / math.log(2) / (counts @ n_bytes)
    return rates
