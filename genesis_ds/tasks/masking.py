"""Masking of the input of language modelling: which tokens the model does not see.

What is masked in a window is a pure function of the key and the share. Where the share is larger, the same tokens are
masked and more.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genesis_ds.config import MaskingConfig
from genesis_ds.corpus.words import WORD, word_pattern
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.token_set import TokenSet
from genesis_ds.data.word_spans import number_words_of_window
from genesis_ds.tokenizer import Tokenizer
from genesis_ds.tokenizer.ids import UNK_ID

MASK_ID = UNK_ID
"""What stands for a masked token: <unk>, which every vocabulary has and no text holds."""
LONGEST_SPAN, GOES_ON = 10, 0.8
"""Words of the longest span, and how much rarer each length is than the one below: 3.8 words on average (SpanBERT,
arXiv 1907.10529)."""


class Masks:
    """Chooses the masked tokens of windows of training text."""

    def __init__(
        self,
        config: MaskingConfig,
        token_set: TokenSet,
        *,
        tokenizer: Tokenizer,
        connectives: Mapping[str, Sequence[str]],
    ) -> None:
        """connectives: language -> its connectives, as in the configuration."""
        self.config, self.tokenizer = config, tokenizer
        self.streams = [token_set.stream("train", language) for language in token_set.languages]
        weighs = config.connectives_weight != 1
        self.connectives = [
            word_pattern(connectives[language]) if weighs and language in connectives else None
            for language in token_set.languages
        ]
        self.byte_lengths = token_set.byte_lengths

    def share(self, step: int) -> float:
        """Return the share of the tokens that are masked at an optimizer step, the first being 0."""
        config = self.config
        if step < config.start or 0 < config.end <= step:
            return 0.0
        return config.share * min(1.0, (step - config.start + 1) / max(1, config.ramp))

    def of_window(self, language: int, pieces: Sequence[range], *, share: float, key: str) -> NDArray[np.bool_]:
        """Return [n] bool: which of the n tokens of a window are masked, made of these pieces of a language's stream.

        They are whole units (tokens, words, spans of words), and over many keys the share of the n that is asked for,
        or all that can be masked where that is less.
        """
        units = self._units(language, pieces)
        n = len(units)
        n_units = int(units.max()) + 1
        uniform = _uniform(key, 2 + 2 * n_units)
        if uniform[0] >= self.config.sequences or not n_units:
            return np.zeros(n, bool)
        if self.config.share_of_each == "drawn":
            share *= uniform[0] / self.config.sequences
        of_order, of_length = uniform[2:].reshape(2, n_units)
        # The order of draws without replacement, by weight (Efraimidis and Spirakis, 2006).
        turns = np.empty(n_units, np.int64)
        waits = -np.log1p(-of_order) / self._weights(units, language, pieces)
        turns[np.argsort(waits, kind="stable")] = np.arange(n_units)
        if self.config.kind == "span":
            turns = _earliest_cover(turns, of_length)
        return _take(np.where(units >= 0, turns[units], n_units), n_units, wanted=share * n, of_rest=uniform[1])

    def _units(self, language: int, pieces: Sequence[range]) -> NDArray[np.int64]:
        """Return [n] int64: of each token the number, from 0, of what is masked as a whole, or -1 for what never is."""
        tokens = self.streams[language].tokens
        ids = np.concatenate([tokens[piece.start : piece.stop] for piece in pieces])
        is_text = self.byte_lengths[ids] > 0
        if self.config.kind == "random":
            return np.where(is_text, np.cumsum(is_text) - 1, -1)
        words = number_words_of_window(self.streams[language], pieces, WORD, self.tokenizer)
        if self.config.kind == "word":
            return words
        return np.where(is_text, np.maximum.accumulate(words), -1)  # with what stands behind each word

    def _weights(self, units: NDArray[np.int64], language: int, pieces: Sequence[range]) -> NDArray[np.float64]:
        weights = np.ones(int(units.max()) + 1)
        if (pattern := self.connectives[language]) is not None:
            found = number_words_of_window(self.streams[language], pieces, pattern, self.tokenizer) >= 0
            weights[units[found & (units >= 0)]] = self.config.connectives_weight
        return weights


def _uniform(key: str, n: int) -> NDArray[np.float64]:
    """Return [n] random numbers in [0, 1)."""
    uniform: NDArray[np.float64] = (keyed_bits(key, n) >> np.uint64(11)) * 2.0**-53
    return uniform


def _earliest_cover(turns: NDArray[np.int64], of_length: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the first turn at which a span covers each unit, where a span begins at each unit in its turn."""
    lengths = 1 + np.floor(np.log1p(-of_length * (1 - GOES_ON**LONGEST_SPAN)) / math.log(GOES_ON))
    covered: NDArray[np.int64] = turns.copy()
    for offset in range(1, min(LONGEST_SPAN, len(turns))):
        reaches = lengths[:-offset] > offset
        covered[offset:] = np.where(reaches, np.minimum(covered[offset:], turns[:-offset]), covered[offset:])
    return covered


def _take(turns: NDArray[np.int64], n_turns: int, *, wanted: float, of_rest: float) -> NDArray[np.bool_]:
    """Return which tokens have their turn before as many are taken as are wanted; n_turns is the turn that never comes.

    The turn that would exceed them is taken with the probability that makes their number the wanted one on average.
    """
    n_by_turn = np.bincount(turns, minlength=n_turns)[:n_turns]
    taken = np.cumsum(n_by_turn)
    end = int(np.searchsorted(taken, wanted, side="right"))
    if end < n_turns and of_rest * n_by_turn[end] < wanted - (taken[end] - n_by_turn[end]):
        end += 1
    return turns < end
