"""The place of words of a text among its tokens."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from genesis_ds.data.token_set import Stream
from genesis_ds.tokenizer import Tokenizer


def number_words(stream: Stream, pattern: re.Pattern[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return [N] int64: for each token of a stream the number, from 0, of the matching word that it is part of, or -1.

    A token belongs to a word if any of its bytes does; one that two words share belongs to the latter.
    """
    numbers = np.full(len(stream.tokens), -1, np.int64)
    byte_lengths, n_words = tokenizer.byte_lengths, 0
    for start, length in zip(stream.starts.tolist(), stream.lengths.tolist(), strict=True):
        ids = np.asarray(stream.tokens[start : start + length])
        text = tokenizer.decode(ids.tolist())
        ends = np.cumsum(byte_lengths[ids])
        spans = np.array([match.span() for match in pattern.finditer(text)], np.int64).reshape(-1, 2)
        first_bytes, end_bytes = _bytes_before(text)[spans].T
        firsts, lasts = np.searchsorted(ends, first_bytes, side="right"), np.searchsorted(ends, end_bytes)
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            numbers[start + first : start + last + 1] = n_words
            n_words += 1
    return numbers


def _bytes_before(text: str) -> NDArray[np.int64]:
    """Return [len(text) + 1] int64: the bytes of UTF-8 before each character, and in all."""
    characters = np.frombuffer(text.encode("utf-32-le"), "<u4")
    lengths = 1 + sum((characters >= first).astype(np.int64) for first in (0x80, 0x800, 0x10000))
    return np.concatenate([[0], np.cumsum(lengths)])


def number_words_of_window(
    stream: Stream, pieces: Sequence[range], pattern: re.Pattern[str], tokenizer: Tokenizer
) -> NDArray[np.int64]:
    """Return [n] int64: the same for the n tokens of some pieces of a stream, in turn; the numbers begin anew at 0.

    A word that a border of a piece cuts is found as well, with those of its tokens that are inside.
    """
    numbers, n_words = np.empty(0, np.int64), 0
    for piece in pieces:
        found = _of_piece(stream, piece.start, len(piece), pattern, tokenizer)
        numbers = np.append(numbers, np.where(found >= 0, found + n_words, -1))
        n_words = int(numbers.max(initial=-1)) + 1
    return numbers


def _of_piece(stream: Stream, start: int, n: int, pattern: re.Pattern[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    numbers = np.full(n, -1, np.int64)
    first = np.searchsorted(stream.starts + stream.lengths, start, side="right")
    last = np.searchsorted(stream.starts, start + n)
    if first == last:
        return numbers
    begin, end = int(stream.starts[first]), int(stream.starts[last - 1] + stream.lengths[last - 1])
    starts, lengths = stream.starts[first:last] - begin, stream.lengths[first:last]
    verses = replace(stream, tokens=stream.tokens[begin:end], starts=starts, lengths=lengths)
    low, high = max(begin, start), min(end, start + n)
    numbers[low - start : high - start] = number_words(verses, pattern, tokenizer)[low - begin : high - begin]
    present = numbers >= 0
    numbers[present] -= numbers[present].min(initial=len(stream.tokens))
    return numbers
