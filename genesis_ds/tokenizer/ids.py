"""What every tokenizer shares: the special ids, the id dtype and the checks at the border."""

from collections.abc import Iterable

import numpy as np

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
"""How the specials are printed, by id. The same spelling inside raw text is plain text."""


def ids_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype that token ids are stored in: uint16 up to 65,536 ids, int32 above."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


def utf8(text: str) -> bytes:
    """Return the UTF-8 bytes of `text`. Raises ValueError where it holds a lone surrogate, which no UTF-8 can spell."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}; "
            "read the file as UTF-8 without errors='surrogateescape'"
        ) from None


def checked_ids(ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """Return `ids` as an int64 array. Raises ValueError for an id outside 0..vocab_size-1."""
    array = np.fromiter(ids, dtype=np.int64)
    outside = array[(array < 0) | (array >= vocab_size)]
    if outside.size:
        raise ValueError(f"token id {outside[0]} is outside the vocabulary 0..{vocab_size - 1}")
    return array
