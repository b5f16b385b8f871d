"""Text to token ids and back, exactly, whatever the text: one protocol, two implementations."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from genesis_ds.errors import UserError, nearest
from genesis_ds.tokenizer.bytes import ByteTokenizer

__all__ = ["Tokenizer", "load_tokenizer", "open_tokenizer"]

Kind = Literal["bytes", "char", "bpe"]


class Tokenizer(Protocol):
    """A reversible map between text and ids.

    For any text without lone surrogates, decode(encode(text)) == text and the byte lengths of its ids sum to the
    length of its UTF-8. Pad, unk, bos and eos are ids 0 to 3: encoding never emits them, decoding skips them.
    """

    @property
    def kind(self) -> str:
        """`bytes`, `char` or `bpe`."""

    @property
    def vocab_size(self) -> int:
        """V: ids are 0..V-1, the four specials included."""

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over everything that determines the ids of a text."""

    @property
    def ids_dtype(self) -> np.dtype:
        """uint16 up to 65,536 ids, int32 above."""

    @property
    def pad_id(self) -> int: ...

    @property
    def unk_id(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def byte_lengths(self) -> np.ndarray:
        """[V] int32: how many UTF-8 bytes each id stands for, 0 for the specials."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, no specials added. Raises ValueError for a lone surrogate."""

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, as `encode` gives them, in `ids_dtype`: the fast way for a corpus."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, invalid UTF-8 as U+FFFD. Raises ValueError for an id outside 0..V-1."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the UTF-8 of `ids`, which may end within a character. Raises ValueError for an id outside 0..V-1."""

    def pieces(self) -> list[str]:
        """Return V spellings for people: `<s>` a special, `<0x0A>` a byte, U+2581 for a space inside a piece."""


def load_tokenizer(kind: Kind, path: str | Path | None = None) -> Tokenizer:
    """Load the tokenizer of a run. Raises UserError for an unknown kind and for a model that cannot serve."""
    if kind not in get_args(Kind):
        raise UserError(f"tokenizer: unknown kind '{kind}'; {nearest(kind, get_args(Kind))}")
    if kind == "bytes" and path:
        raise UserError(f"tokenizer: kind 'bytes' takes no path, got {path}; remove it or use kind 'char' or 'bpe'")
    if kind != "bytes" and not path:
        raise UserError(
            f"tokenizer: kind '{kind}' needs the path of a trained model (genesis-ds tokenizer train RECIPE)"
        )
    tokenizer = open_tokenizer(path)
    if tokenizer.kind != kind:
        raise UserError(f"tokenizer.kind: {kind}, but {path} is of kind '{tokenizer.kind}'; give that kind")
    return tokenizer


def open_tokenizer(path: str | Path | None) -> Tokenizer:
    """Return the tokenizer of a model file, whatever its kind; of bytes for None.

    Raises UserError for a file that is none.
    """
    if not path:
        return ByteTokenizer()
    from genesis_ds.tokenizer.sentencepiece import SentencePieceTokenizer  # a byte-level run does without the library

    return SentencePieceTokenizer.load(Path(path))
