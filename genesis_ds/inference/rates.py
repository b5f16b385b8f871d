"""Bits per byte and perplexity of parts of a text, with intervals over its chapters."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_ds.analysis.resampling import chapter_counts, interval


class Rate(NamedTuple):
    """How well a text is predicted."""

    nats: float
    n_tokens: int
    n_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits per UTF-8 byte; nan for no byte."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Exponential of the cross-entropy in nats per token; nan for no token."""
        return math.exp(min(self.nats / self.n_tokens, 700.0)) if self.n_tokens else math.nan


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

    def rate(self, members: Any) -> Rate:
        """Return the rate of some units together."""
        return Rate(*(values[members].sum().item() for values in (self.nats, self.n_tokens, self.n_bytes)))


def bits_interval(judged: Judged, chapters: NDArray[np.int64], members: Any) -> tuple[float, float] | None:
    """Return the 95 % interval of the bits per byte of some units, over chapters; None for a single chapter."""
    resampled = _resampled(judged, chapters, members)
    return None if resampled is None else interval(resampled)


def difference_interval(
    first: Judged, second: Judged, chapters: NDArray[np.int64], members: Any
) -> tuple[float, float] | None:
    """Return the 95 % interval of second's bits per byte less first's, on the same chapters; None for a single one."""
    ours, theirs = _resampled(first, chapters, members), _resampled(second, chapters, members)
    return None if ours is None or theirs is None else interval(theirs - ours)


def _resampled(judged: Judged, chapters: NDArray[np.int64], members: Any) -> NDArray[np.float64] | None:
    """Return the bits per byte of resamples of chapters, of equal chapters for every model, in each of which something
    has been judged."""
    names, chapter = np.unique(chapters[members], return_inverse=True)
    if len(names) < 2:
        return None
    nats, n_bytes = (np.bincount(chapter, values[members]) for values in (judged.nats, judged.n_bytes))
    counts = chapter_counts(names)
    rates: NDArray[np.float64] = (counts @ nats) / math.log(2) / (counts @ n_bytes)
    return rates
