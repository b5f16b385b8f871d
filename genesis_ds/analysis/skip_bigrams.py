"""What a table of counts says of the token that stands at a distance from another."""

import numpy as np
from numpy.typing import NDArray


class SkipBigrams:
    """The probabilities of the token at t + offset given the one at t, of counts smoothed by those of single tokens.

    p(b | a) = (n(a, b) + k(a) p(b)) / (n(a) + k(a)), where k(a) is the number of different tokens seen after a
    (Witten and Bell, 1991), and p(b) has one count added to each token.
    """

    def __init__(self, tokens: NDArray[np.integer], offset: int, vocab_size: int) -> None:
        """tokens [n]: the text that is counted."""
        self.vocab_size = vocab_size
        firsts, seconds = tokens[:-offset].astype(np.int64), tokens[offset:]
        self.pairs, self.counts = _counted(firsts * vocab_size + seconds, vocab_size**2)
        self.n = np.bincount(firsts, minlength=vocab_size)
        self.kinds = np.maximum(1, np.bincount(self.pairs // vocab_size, minlength=vocab_size))
        self.alone = (np.bincount(tokens, minlength=vocab_size) + 1) / (len(tokens) + vocab_size)

    def nats(self, firsts: NDArray[np.int64], seconds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return -log p of each second token given the first, of any shape."""
        pairs = firsts * self.vocab_size + seconds
        at = np.searchsorted(self.pairs, pairs).clip(max=max(0, len(self.pairs) - 1))
        counts = np.where(self.pairs[at] == pairs, self.counts[at], 0) if len(self.pairs) else np.zeros(pairs.shape)
        kinds = self.kinds[firsts]
        nats: NDArray[np.float64] = -np.log((counts + kinds * self.alone[seconds]) / (self.n[firsts] + kinds))
        return nats


def _counted(values: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the different values below a limit, ascending, and how often each is there."""
    if limit > len(values):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values)
    found = np.flatnonzero(counts)
    return found, counts[found]
