"""The byte ids are those of existing checkpoints."""

import numpy as np

from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.ids import ids_dtype


def test_a_byte_is_its_value_plus_four() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.vocab_size == 260
    assert tokenizer.encode("A\u00e9\x00") == [69, 0xC3 + 4, 0xA9 + 4, 4]
    assert tokenizer.byte_lengths[4:].tolist() == [1] * 256


def test_the_fingerprint_never_changes() -> None:
    assert load_tokenizer("bytes").fingerprint == "895c2fb88f4a3bf7112eb622ff07d64b3387b7834fd79bc8597905f71f71d4dd"


def test_ids_dtype_holds_the_largest_id() -> None:
    assert ids_dtype(65536) == np.uint16
    assert ids_dtype(65537) == np.int32
