"""What every tokenizer promises, whatever the text."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import ANY_TEXT, HARD

from genesis_ds.tokenizer import Tokenizer


@settings(max_examples=300)
@given(text=ANY_TEXT)
def test_any_text_comes_back_exactly_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert not set(ids) & {tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id}


def test_every_character_of_unicode_comes_back(tokenizer: Tokenizer) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(characters[start : start + 4096]) for start in range(0, len(characters), 4096)]
    for text, ids in zip(texts, tokenizer.encode_many(texts), strict=True):
        assert tokenizer.decode(ids) == text


@settings(max_examples=50)
@given(texts=st.lists(ANY_TEXT, max_size=5))
def test_encode_many_is_encode_of_each(tokenizer: Tokenizer, texts: list[str]) -> None:
    many = tokenizer.encode_many(texts)
    assert [ids.tolist() for ids in many] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == tokenizer.ids_dtype == np.uint16 for ids in many)


@settings(max_examples=100)
@given(data=st.data())
def test_any_ids_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    tokenizer.decode(data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1))))


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_hard_text(tokenizer: Tokenizer, text: str) -> None:
    for variant in (text, text * 3, f"a{text}b", f" {text} "):
        assert tokenizer.decode(tokenizer.encode(variant)) == variant


def test_special_ids_are_fixed_and_skipped(tokenizer: Tokenizer) -> None:
    specials = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id]
    assert specials == [0, 1, 2, 3]
    assert tokenizer.decode([2, *tokenizer.encode("boat"), 3, 0, 1, 0]) == "boat"
    assert tokenizer.byte_lengths[:4].tolist() == [0, 0, 0, 0]
    assert tokenizer.pieces()[:4] == ["<pad>", "<unk>", "<s>", "</s>"]


def test_shapes(tokenizer: Tokenizer) -> None:
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,) == (len(tokenizer.pieces()),)
    assert tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.byte_lengths is tokenizer.byte_lengths, "the data path asks for them at every piece of text"
    assert len(tokenizer.fingerprint) == 64


def test_invalid_utf8_from_a_model_becomes_the_replacement_character(tokenizer: Tokenizer) -> None:
    cut = tokenizer.encode("\U00012345")[:-1]
    assert tokenizer.decode([*cut, *tokenizer.encode("a")]) == "\ufffda"


@pytest.mark.parametrize("wrong", [-1, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(
        ValueError, match=rf"token id {wrong} is outside the vocabulary 0\.\.{tokenizer.vocab_size - 1}"
    ):
        tokenizer.decode([5, wrong])


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    for call in (lambda: tokenizer.encode("ab\udcff"), lambda: tokenizer.encode_many(["ok", "ab\udcff"])):
        with pytest.raises(ValueError, match=r"lone surrogate U\+DCFF at character 2") as caught:
            call()
        assert not isinstance(caught.value, UnicodeError)


def test_a_tokenizer_travels_to_a_worker_process(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode("the boat") == tokenizer.encode("the boat")
