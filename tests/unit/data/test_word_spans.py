import numpy as np
import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.corpus.words import WORD, word_pattern
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.word_spans import number_words, number_words_of_window
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece

TEXTS = {1001001: "And he said, and went; so they.", 1001002: "Sand and por  tanto", 1001003: "그러므로 또 그가 또한"}
WORDS = ["and", "por tanto", "그러므로", "또"]


@pytest.fixture(params=["bytes", "char", "bpe"])
def text(request, tmp_path):
    """A stream of the texts and its tokenizer."""
    kind, texts = request.param, [*TEXTS.values()] * 9
    coverage = 1.0 if kind == "bpe" else None
    if kind == "bytes":
        tokenizer = load_tokenizer(kind)
    else:
        tokenizer = train_sentencepiece(texts, tmp_path / "m", 320, coverage, model_type=kind)
    corpus = Corpus((Translation.from_rows("x", "en", {verse: (text, 0) for verse, text in TEXTS.items()}),))
    token_set = compile_token_set(corpus, [], tokenizer, split_verses(corpus, chapter_fraction=0), tmp_path)
    return token_set.stream("train", "en"), tokenizer


def test_the_tokens_of_each_word_are_found_whatever_the_tokenizer(text):
    stream, tokenizer = text
    numbers = number_words(stream, word_pattern(WORDS), tokenizer)
    words = [stream.tokens[numbers == number].tolist() for number in range(numbers.max() + 1)]
    assert [tokenizer.decode(word).strip() for word in words] == ["And", "and", "and", "por  tanto", "그러므로", "또"]
    assert (np.diff(np.flatnonzero(numbers == 4)) == 1).all()


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_a_window_has_the_words_of_its_stream_numbered_from_0(text, n):
    stream, tokenizer = text
    whole = number_words(stream, WORD, tokenizer)
    for start in range(len(stream.tokens) - n + 1):
        expected = whole[start : start + n].copy()
        present = expected >= 0
        if present.any():
            expected[present] -= expected[present].min()
        assert number_words_of_window(stream, [range(start, start + n)], WORD, tokenizer).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("And he said, “Let there be light!”", ["And", "he", "said", "Let", "there", "be", "light"]),
        ("Y dijo: ¿quién? 3:16", ["Y", "dijo", "quién", "3", "16"]),
        ("그가 하나님이.", ["그가", "하나님이"]),
        (
            "हिन्दी है।",
            ["हिन्दी", "है"],
        ),
        ("起初\uff0c神。", ["起初", "神"]),
    ],
)
def test_a_word_stands_between_spaces_and_punctuation(text, words):
    assert WORD.findall(text) == words
