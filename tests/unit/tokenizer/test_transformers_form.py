"""The tokenizer.json of an export gives the ids of the tokenizer, whatever the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import ANY_TEXT, HARD, invented

from genesis_ds.checkpoint.models.tokenizer_files import write_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece


def loaded(transformers, directory, model_path):
    write_tokenizer(directory, model_path, longest=100_000)
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def theirs(transformers, tokenizer, model_path, char_model_path, tmp_path_factory):
    files = {"bytes": None, "char": char_model_path, "bpe": model_path}
    return loaded(transformers, tmp_path_factory.mktemp("written"), files[tokenizer.kind])


@settings(max_examples=300)
@given(text=ANY_TEXT | st.text())
def test_any_text_has_the_same_ids_and_comes_back(tokenizer, theirs, text):
    ids = tokenizer.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text


def test_hard_text(tokenizer, theirs):
    for text in (variant for hard in HARD for variant in (hard * 3, f"a{hard}b", f" {hard} ")):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


def test_special_ids_are_the_same_and_are_skipped_on_request(tokenizer, theirs):
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id] == [0, 1, 2, 3]
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.decode([2, *tokenizer.encode("the boat"), 3, 0], skip_special_tokens=True) == "the boat"


def test_a_text_of_bytes_that_is_cut_within_a_character_loses_that_one_alone(tokenizer, theirs):
    if tokenizer.kind == "bytes":
        assert theirs.decode(tokenizer.encode("배가 갔다")[:-1]) == tokenizer.decode(tokenizer.encode("배가 갔다")[:-1])


@settings(max_examples=300)
@given(text=st.lists(st.sampled_from(["a", "b", " ", "<unk>"]), max_size=60).map("".join))
def test_pieces_that_can_be_made_in_several_ways_are_made_in_the_same(repetitive, text):
    ours, theirs = repetitive
    assert theirs(text)["input_ids"] == ours.encode(text)


@pytest.fixture(scope="module")
def repetitive(transformers, tmp_path_factory):
    """A tokenizer of text in which every piece is made of its like, in both forms."""
    directory = tmp_path_factory.mktemp("repetitive")
    words = [f"{number:b}".replace("0", "a").replace("1", "b") for number in range(2000, 6000)]
    runs = [*("a" * n for n in range(40)), *(" " * n + "b" for n in range(9))]
    spelled = ["<unk> unk> <unk unk"] * 500
    model = directory / "repetitive.model"
    ours = train_sentencepiece(
        [*words, *(word[::-1] for word in words), *runs, *spelled, *invented(20)], model, vocab_size=600
    )
    return ours, loaded(transformers, directory, model)
