"""Byte pairs and characters by SentencePiece, with settings under which every text comes back byte for byte."""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm

from genesis_ds.disk import replacing
from genesis_ds.errors import UserError, named_by_user, require_file
from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID, checked_ids, ids_dtype, utf8
from genesis_ds.tokenizer.recipe import ModelType, check_settings

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space inside a piece: the one character it cannot tell from a space in raw text."""

_RETRAIN = "train one with genesis-ds tokenizer train RECIPE"
_MAX_SENTENCE_BYTES = 16384
_SETTINGS: dict[str, Any] = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "split_digits": True,
    "required_chars": SPACE_MARK,  # a space is text, also where the text to train on has none
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": _MAX_SENTENCE_BYTES,
    "pad_id": PAD_ID,
    "unk_id": UNK_ID,
    "bos_id": BOS_ID,
    "eos_id": EOS_ID,
    "minloglevel": 2,  # errors only; they come back as exceptions
}
"""What training needs for an exact round trip. The specials are control ids: their spelling in raw text is text."""

_PROBE = "  a\tb \n\r\n e\u0301 \u00e9 \ufb01 \uff21 \u1112\u1161\u11ab \x00<s></s><unk><pad><0x0A>  "
"""Text that a model with other settings would normalise, trim or take for specials."""


class SentencePieceTokenizer:
    """A trained SentencePiece model with byte fallback.

    `SentencePieceTokenizer(model)` takes the serialized model; `load` reads it from a file. Raises UserError, which
    names `source`, for bytes that are no SentencePiece model and for a model trained with settings that alter text.
    """

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    def __init__(self, model: bytes, source: str = "tokenizer model") -> None:
        self._processor = _parse(model, source)
        self.vocab_size: int = self._processor.vocab_size()
        self.ids_dtype = ids_dtype(self.vocab_size)
        try:
            self._bytes = [self._bytes_of(i) for i in range(self.vocab_size)]
        except UnicodeDecodeError as error:
            raise UserError(f"{source}: damaged, a piece is no UTF-8; restore it, or {_RETRAIN}") from error
        self._mark_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in utf8(SPACE_MARK)]
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise UserError(
                f"{source}: this model alters text (normalisation, dummy prefix, trimmed spaces); {_RETRAIN}"
            )

    @classmethod
    def load(cls, path: Path) -> "SentencePieceTokenizer":
        """Load the model file at `path`. Raises UserError where there is none."""
        require_file(path, "tokenizer model")
        if not path.is_file():
            raise UserError(f"tokenizer model {path}: no such file; train it with genesis-ds tokenizer train RECIPE")
        return cls(path.read_bytes(), f"tokenizer model {path}")

    @cached_property
    def kind(self) -> ModelType:
        """`char` where no piece is longer than a character, else `bpe`."""
        processor = self._processor
        pieces = [processor.id_to_piece(i) for i in range(len(SPECIALS), self.vocab_size) if not processor.is_byte(i)]
        return "char" if max(map(len, pieces)) == 1 else "bpe"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over every piece, its rank and its kind: what determines the ids of a text."""
        digest = hashlib.sha256(b"genesis_ds.bpe.1: U+2581 as three bytes\n")
        for i in range(self.vocab_size):
            kind = f"{self._processor.is_control(i):d}{self._processor.is_byte(i):d}{self._processor.is_unused(i):d}"
            digest.update(f"{self._processor.id_to_piece(i)}\t{self._processor.get_score(i)}\t{kind}\n".encode())
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, no specials added. Raises ValueError for a lone surrogate."""
        utf8(text)
        first, *rest = text.split(SPACE_MARK)
        ids = list(self._processor.encode(first))
        for part in rest:
            ids += self._mark_ids
            ids += self._processor.encode(part)
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text as an array of `ids_dtype`. Raises ValueError for a lone surrogate."""
        plain = [b"" if SPACE_MARK in text else utf8(text) for text in texts]
        return [
            np.array(self.encode(text) if SPACE_MARK in text else ids, dtype=self.ids_dtype)
            for text, ids in zip(texts, self._processor.encode(plain), strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` less specials, bad UTF-8 as U+FFFD. Raises ValueError for an id outside 0..V-1."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the UTF-8 of `ids` less specials. Raises ValueError for an id outside 0..V-1."""
        return b"".join(self._bytes[i] for i in checked_ids(ids, self.vocab_size))

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """[V] int32: the UTF-8 bytes of each piece, 1 for a byte piece, 0 for the specials."""
        return np.array([len(piece) for piece in self._bytes], dtype=np.int32)

    def pieces(self) -> list[str]:
        """Return V spellings for people: `<s>` a special, `<0x0A>` a byte, U+2581 for a space."""
        return [self._processor.id_to_piece(i) for i in range(self.vocab_size)]

    def _bytes_of(self, i: int) -> bytes:
        """Return the bytes of id `i`. Decoding by this table, not by SentencePiece, keeps a literal U+2581 apart."""
        piece = self._processor.id_to_piece(i)
        if self._processor.is_byte(i):
            return bytes([int(piece[3:5], 16)])
        return b"" if i < len(SPECIALS) else utf8(piece.replace(SPACE_MARK, " "))


def _parse(model: bytes, source: str) -> spm.SentencePieceProcessor:
    """Return the processor of a model whose special ids and byte pieces are ours. Raises UserError for another."""
    processor = _processor(model)
    if processor is None:
        raise UserError(f"{source}: not a SentencePiece model; {_RETRAIN}")
    specials = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    if specials != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
        raise UserError(f"{source}: its pad, unk, bos, eos ids are {specials}, not (0, 1, 2, 3); {_RETRAIN}")
    if sum(processor.is_byte(i) for i in range(processor.vocab_size())) != 256:
        raise UserError(f"{source}: it has no byte fallback, so some text is lost; {_RETRAIN}")
    return processor


def _processor(model: bytes) -> spm.SentencePieceProcessor | None:
    """Return the processor of a serialized model; None for anything else."""
    try:
        return spm.SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError:
        return None


def train_sentencepiece(
    texts: Iterable[str],
    output: Path,
    vocab_size: int = 8192,
    character_coverage: float | None = None,
    *,
    model_type: ModelType = "bpe",
) -> SentencePieceTokenizer:
    """Train a model on `texts`, put it at `output` in the place of an earlier one, and return it.

    The settings are those of a `Recipe`. The same texts give the same ids. Raises UserError, with nothing written,
    where `texts` are empty or the sizes do not suit them, or `output` is no tokenizer model.
    """
    coverage = check_settings(model_type, vocab_size, character_coverage)
    check_output(output)
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=coverage,
            **_SETTINGS,
        )
    except RuntimeError as error:
        if mistake := _mistake(str(error), vocab_size):
            raise UserError(mistake) from None
        raise
    tokenizer = SentencePieceTokenizer(model.getvalue())
    with replacing(output) as temporary:
        temporary.write_bytes(model.getvalue())
    return tokenizer


def check_output(path: Path) -> None:
    """Raise UserError unless a model may be put at `path`: nothing is there, or a SentencePiece model."""
    if path.is_dir():
        raise UserError(f"tokenizer output {path}: is a folder; name a file in it, such as {path}/tokenizer.model")
    require_file(path, "tokenizer output")
    with named_by_user(path, "tokenizer output"):
        if path.exists() and _processor(path.read_bytes()) is None:
            raise UserError(
                f"tokenizer output {path}: exists and is no tokenizer model: it is left alone; name another file"
            )


def _sentences(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield the lines of `texts`, cut where SentencePiece would drop a longer one (at most 4 bytes a character)."""
    longest = _MAX_SENTENCE_BYTES // 4
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), longest):
                yield utf8(line[start : start + longest])


def _mistake(message: str, vocab_size: int) -> str | None:
    """Return SentencePiece's complaint in the words of the recipe, or None where the user is not at fault."""
    if too_big := re.search(r"Vocabulary size too high .*value <= (\d+)", message):
        return f"tokenizer vocab_size {vocab_size}: this text yields at most {too_big[1]}; lower vocab_size"
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"tokenizer vocab_size {vocab_size}: the characters of this text need at least {too_small[1]}; "
            "raise vocab_size or lower character_coverage (0.98 at least)"
        )
    if "sentences_.empty()" in message:
        return "tokenizer: there is no text to train on; choose other languages or another corpus"
    return None
