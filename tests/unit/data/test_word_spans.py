import numpy as np
import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.corpus.words import word_pattern
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.word_spans import number_words
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.sentencepiece import train_bpe

TEXTS = {1001001: "And he said, and went; so they.", 1001002: "Sand and por  tanto", 1001003: "그러므로 또 그가 또한"}
WORDS = ["and", "por tanto", "그러므로", "또"]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_the_tokens_of_each_word_are_found_whatever_the_tokenizer(kind, tmp_path):
    tokenizer = (
        load_tokenizer("bytes") if kind == "bytes" else train_bpe([*TEXTS.values()] * 9, tmp_path / "m", 320, 1.0)
    )
    corpus = Corpus((Translation.from_rows("x", "en", {verse: (text, 0) for verse, text in TEXTS.items()}),))
    token_set = compile_token_set(corpus, [], tokenizer, split_verses(corpus, chapter_fraction=0), tmp_path)
    stream = token_set.stream("train", "en")
    numbers = number_words(stream, word_pattern(WORDS), tokenizer)
    words = [stream.tokens[numbers == number].tolist() for number in range(numbers.max() + 1)]
    assert [tokenizer.decode(word).strip() for word in words] == ["And", "and", "and", "por  tanto", "그러므로", "또"]
    assert (np.diff(np.flatnonzero(numbers == 4)) == 1).all()
