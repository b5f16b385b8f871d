"""Bytes as tokens: four specials, then byte b as id b + 4. Nothing to train and no text it cannot spell."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID, SPECIALS, UNK_ID, checked_ids, ids_dtype, utf8

FIRST_BYTE_ID = len(SPECIALS)


class ByteTokenizer:
    """A tokenizer of bytes, with the 260 ids that existing byte-level checkpoints use."""

    kind = "bytes"
    vocab_size = FIRST_BYTE_ID + 256
    ids_dtype = ids_dtype(vocab_size)
    fingerprint = hashlib.sha256(b"genesis_ds.bytes.1: pad 0, unk 1, bos 2, eos 3, byte b is b + 4").hexdigest()
    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    def encode(self, text: str) -> list[int]:
        """Return one id per UTF-8 byte of `text`. Raises ValueError for a lone surrogate."""
        return [byte + FIRST_BYTE_ID for byte in utf8(text)]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text as a uint16 array. Raises ValueError for a lone surrogate."""
        shift = np.uint16(FIRST_BYTE_ID)
        return [np.frombuffer(utf8(text), np.uint8).astype(self.ids_dtype) + shift for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` less specials, bad UTF-8 as U+FFFD. Raises ValueError for an id outside 0..259."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids` less specials. Raises ValueError for an id outside 0..259."""
        array = checked_ids(ids, self.vocab_size) - FIRST_BYTE_ID
        return array[array >= 0].astype(np.uint8).tobytes()

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """[V] int32: 1 for each byte, 0 for the specials."""
        lengths = np.ones(self.vocab_size, dtype=np.int32)
        lengths[:FIRST_BYTE_ID] = 0
        return lengths

    def pieces(self) -> list[str]:
        """Return V spellings for people: the specials, then `<0x00>` to `<0xFF>`."""
        return [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
