import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def synthetic():
    return synthetic_corpus()


@pytest.fixture(scope="session")
def synthetic_set(synthetic, tmp_path_factory):
    split = split_verses(synthetic)
    return compile_token_set(synthetic, [], load_tokenizer("bytes"), split, tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="session")
def train_verses(synthetic_set):
    return VerseTable(synthetic_set, ["train"], max_length=256)


@pytest.fixture
def table_of(tmp_path):
    """A function that makes the verse table of languages given as {language: {verse_id: text}}, all of it train."""

    def build(languages, max_length=256):
        translations = (
            Translation.from_rows(name, name, {i: (text, 0) for i, text in rows.items()})
            for name, rows in languages.items()
        )
        corpus = Corpus(tuple(translations))
        split = split_verses(corpus, chapter_fraction=0)
        token_set = compile_token_set(corpus, [], load_tokenizer("bytes"), split, tmp_path)
        return VerseTable(token_set, ["train"], max_length)

    return build
