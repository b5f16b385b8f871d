"""The verses of a token set as one table, for tasks whose examples are verses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_ds.data.token_set import TokenSet
from genesis_ds.tokenizer import Tokenizer

BOOK = 1_000_000
"""Verse ids (and keys) per book; a chapter has 1000."""
LANGUAGE = 100 * BOOK
"""Keys per language."""


class VerseTable:
    """The n verses of some tiers that have 1 to max_length tokens, in order of language and verse id.

    Chapter rows (verse 0) are verses like any other here.
    """

    labels: list[str]
    """The languages, as the token set calls them."""
    keys: NDArray[np.int64]
    """[n], strictly ascending: LANGUAGE * index of the language + verse id."""
    languages: NDArray[np.int16]
    """[n]: indices into `labels`."""
    verse_ids: NDArray[np.int32]
    """[n]: the id of each verse."""
    lengths: NDArray[np.int32]
    """[n]: tokens."""
    n_too_long: int
    """Verses left out because they have more than max_length tokens."""

    def __init__(self, token_set: TokenSet, tiers: Sequence[str], max_length: int) -> None:
        """Read which verses there are; the tokens stay memory-mapped."""
        self.labels, self.tiers, self.max_length = token_set.languages, tuple(tiers), max_length
        # One stream per language and tier, all tiers of a language in a row.
        streams = [token_set.stream(tier, label) for label in self.labels for tier in tiers]
        stream = np.repeat(np.arange(len(streams)), [len(s.lengths) for s in streams])
        keys = stream // len(tiers) * LANGUAGE + np.concatenate([s.verse_ids for s in streams])
        lengths = np.concatenate([s.lengths for s in streams])
        self.n_too_long = int((lengths > max_length).sum())
        order = np.argsort(keys, kind="stable")  # in the time of a copy where they are in order, as those of one tier
        order = order[(lengths[order] > 0) & (lengths[order] <= max_length)]
        self.keys, self.lengths = keys[order], lengths[order]
        self.languages = (self.keys // LANGUAGE).astype(np.int16)
        self.verse_ids = (self.keys % LANGUAGE).astype(np.int32)
        self._tokens = [np.asarray(s.tokens) for s in streams]
        self._stream = stream[order]
        self._starts = np.concatenate([s.starts for s in streams])[order]

    def remedy(self, otherwise: str) -> str:
        """Say what to do where verses are lacking: raise batch.seq_len where some are too long for it, or `otherwise`.

        Of a table whose max_length is that of a window.
        """
        if not self.n_too_long:
            return otherwise
        return f"{self.n_too_long:,} verses are longer than {self.max_length} tokens; raise batch.seq_len"

    def __len__(self) -> int:
        return len(self.keys)

    def tokens(self, index: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return the token ids of a verse, of shape [its length]; read-only."""
        start = self._starts[index]
        tokens: NDArray[np.unsignedinteger[Any]] = self._tokens[self._stream[index]]
        return tokens[start : start + self.lengths[index]]

    def texts(self, rows: NDArray[np.int64], tokenizer: Tokenizer) -> list[str]:
        """Return the texts of verses [n]."""
        return [tokenizer.decode(self.tokens(row).tolist()) for row in rows.tolist()]

    def find(self, language: ArrayLike, verse_ids: ArrayLike) -> NDArray[np.int64]:
        """Return indices of verses in languages (by index), broadcast against each other; -1 where there is none."""
        wanted = np.asarray(language, np.int64) * LANGUAGE + np.asarray(verse_ids)
        index = np.searchsorted(self.keys, wanted)
        found = np.append(self.keys, -1)[index] == wanted
        return np.where(found, index, -1)
