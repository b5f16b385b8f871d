"""Canaries: random sequences that language modelling is given among its text (Carlini et al., arXiv 1802.08232).

Which they are, in which windows they stand and where in these, is a pure function of the seed and the position.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genesis_ds.config import MemorisationConfig
from genesis_ds.data.keyed_random import keyed_bits, keyed_permutation
from genesis_ds.data.token_set import TokenSet
from genesis_ds.errors import UserError
from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID

LENGTH = 16
"""Random tokens of a canary."""
MOST_WINDOWS = 0.1
"""The most that canaries have of the windows of an epoch; each takes the place of some text there."""


class Canaries:
    """The canaries of a run. Each stands as a document of its own, `bos tokens eos`, in the place of what was there."""

    repetitions: NDArray[np.int64]
    """[n]: in how many windows of an epoch each canary is."""
    tokens: NDArray[np.int64]
    """[n, 1 + LENGTH + 1]: the canaries, of tokens that the training text of the first language has, all as likely."""

    def __init__(self, config: MemorisationConfig, token_set: TokenSet, seed: int) -> None:
        self.seed, n = seed, config.canaries
        self.repetitions = np.resize(np.array(config.repetitions, np.int64), n)
        counts = np.bincount(token_set.stream("train", token_set.languages[0]).tokens)
        (self.alphabet,) = np.nonzero((counts > 0) & (token_set.byte_lengths[: len(counts)] > 0))
        self.tokens = np.pad(self.draw("canaries", n), ((0, 0), (0, 1)), constant_values=EOS_ID)

    def draw(self, purpose: str, n: int) -> NDArray[np.int64]:
        """Return n random sequences as they begin in a window, [n, 1 + LENGTH]."""
        bits = keyed_bits(f"{purpose}/{self.seed}", n * LENGTH).reshape(n, LENGTH)
        found = self.alphabet[bits % np.uint64(len(self.alphabet))]
        return np.pad(found, ((0, 0), (1, 0)), constant_values=BOS_ID)

    def require_windows(self, n_windows: int, seq_len: int) -> None:
        """Raise UserError where an epoch of so many windows has no room for the canaries."""
        if seq_len <= LENGTH:
            raise UserError(f"memorisation.canaries: one is longer than batch.seq_len {seq_len}; give {LENGTH + 1}")
        copies, most = int(self.repetitions.sum()), int(MOST_WINDOWS * n_windows)
        if copies > most:
            raise UserError(
                f"memorisation.canaries: {len(self.tokens)}, with memorisation.repetitions {copies:,} windows of an "
                f"epoch, but {MOST_WINDOWS:.0%} of its {n_windows:,} are {most:,}; give fewer"
            )

    def insert(self, windows: NDArray[np.integer], positions: Sequence[int], per_epoch: int) -> None:
        """Write the canaries into the windows [B, T+1] at these positions of the task, of so many in an epoch."""
        for window, position in zip(windows, positions, strict=True):
            epoch, index = divmod(position, per_epoch)
            canary = _canary_of(f"canaries/{self.seed}/{epoch}", per_epoch, tuple(self.repetitions.tolist()))[index]
            if canary >= 0:
                width = self.tokens.shape[1]
                places = np.uint64(len(window) - width + 1)
                start = int(keyed_bits(f"canaries/{self.seed}/{position}", 1)[0] % places)
                window[start : start + width] = self.tokens[canary]


@lru_cache(maxsize=4)
def _canary_of(key: str, n_windows: int, repetitions: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the canary of each window of an epoch, -1 for none, [n_windows]."""
    copies = np.repeat(np.arange(len(repetitions)), repetitions)
    found = np.full(n_windows, -1, np.int64)
    found[keyed_permutation(key, n_windows)[: len(copies)]] = copies
    return found
