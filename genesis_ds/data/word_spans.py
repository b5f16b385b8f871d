"""The place of words of a text among its tokens."""

import re

import numpy as np
from numpy.typing import NDArray

from genesis_ds.data.token_set import Stream
from genesis_ds.tokenizer import Tokenizer


def number_words(stream: Stream, pattern: re.Pattern[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return [N] int64: for each token of a stream the number, from 0, of the matching word that it is part of, or -1.

    A token belongs to a word if any of its bytes does; one that two words share belongs to the latter.
    """
    numbers = np.full(len(stream.tokens), -1, np.int64)
    byte_lengths, n_words = tokenizer.byte_lengths(), 0
    for start, length in zip(stream.starts.tolist(), stream.lengths.tolist(), strict=True):
        ids = np.asarray(stream.tokens[start : start + length])
        text = tokenizer.decode(ids.tolist())
        ends = np.cumsum(byte_lengths[ids])
        for match in pattern.finditer(text):
            first_byte, end_byte = (len(text[:index].encode()) for index in match.span())
            first = np.searchsorted(ends, first_byte, side="right")
            numbers[start + first : start + np.searchsorted(ends, end_byte) + 1] = n_words
            n_words += 1
    return numbers
