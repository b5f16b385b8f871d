"""What is said of the languages of a corpus, and that it is counted as the run will count it."""

import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Flag, Translation
from genesis_ds.data.coverage import chosen_of, gaps, n_windows, report
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.errors import UserError
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.tokenizer import load_tokenizer

GENESIS, RUTH = 1001000, 8001000
TOKENIZER = load_tokenizer("bytes")


def verses(first, n, name, language=None):
    rows = {first + verse: (f"verse {verse} of {name}", 0) for verse in range(1, n + 1)}
    rows[first + n + 1] = ("", int(Flag.MERGED))
    return Translation.from_rows(name, language or name, rows)


def compiled(corpus, folder):
    return compile_token_set(corpus, [], TOKENIZER, split_verses(corpus, chapter_fraction=0), folder)


def test_a_report_counts_what_the_compiled_streams_have(synthetic, synthetic_set):
    (table, *notices), longest = report(synthetic, TOKENIZER, split_seed=0, seq_len=64)
    rows = [line.split() for line in table.splitlines()[1 : 1 + len(synthetic.translations)]]
    of_train = {language: sizes["train"] for language, sizes in synthetic_set.manifest.tokens.items()}
    assert {row[1]: int(row[-1].replace(",", "")) for row in rows} == {
        language: n_windows(n, 64) for language, n in of_train.items()
    }
    assert longest == max(of_train.values())
    assert all(row[-2] == row[-4] for row in rows), "a byte is a token"
    assert notices == []


def test_windows_are_those_of_language_modelling(synthetic_set):
    sizes = synthetic_set.manifest.tokens
    for seq_len in (1, 7, 100, 1000):
        expected = LanguageModelling(synthetic_set, seq_len, seed=0).sequences_per_epoch
        assert sum(n_windows(of_tier["train"], seq_len) for of_tier in sizes.values()) == expected
    assert [n_windows(n, 256) for n in (0, 1, 256, 257, 512, 513)] == [0, 0, 0, 1, 1, 2]


def test_languages_that_lack_training_or_validation_are_named(tmp_path):
    both = Translation.from_rows(
        "en", "en", {first + v: (f"word{v} {first}", 0) for first in (GENESIS, RUTH) for v in range(1, 40)}
    )
    corpus = Corpus((both, verses(RUTH, 9, "es"), verses(GENESIS, 2, "ko"), verses(GENESIS, 2, "hi")))
    assert gaps(compiled(corpus, tmp_path).manifest.tokens, 64) == [
        "es: only in validation, so judged and not trained on",
        "ko (29 tokens), hi (29 tokens): no window of 64 tokens in training, so lm does not learn from it",
        "ko, hi: no text in validation, so not judged",
    ]


def test_a_whole_corpus_lacks_nothing(synthetic_set):
    assert gaps(synthetic_set.manifest.tokens, 256) == []


def test_the_chosen_languages_are_counted_among_all(synthetic):
    known = {translation.language: translation for translation in synthetic.translations}
    assert chosen_of(["qaa", "qac"], known, "corpora/x") == "qaa, qac of 3 languages in corpora/x"
    assert chosen_of(list(known), known, "corpora/x") == "qaa, qab, qac: all of corpora/x"
    many = {f"qx-{n:02}": verses(GENESIS, 1, f"qx-{n:02}") for n in range(33)}
    assert chosen_of(list(many), many, "corpora/y").endswith("qx-10, qx-11 and 21 more: all of corpora/y")
    twice = {name: verses(GENESIS, 1, name, "en") for name in ("en-a", "en-b", "en-c")}
    assert chosen_of(["en-a"], twice, "corpora/z") == "en-a of 3 translations in corpora/z"


def test_a_corpus_whose_only_language_cannot_be_trained_on_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^data\.corpus: the chosen languages have no training text; see .*inspect`$"):
        compiled(Corpus((verses(RUTH, 9, "en"),)), tmp_path)
    few = compiled(Corpus((verses(GENESIS, 2, "en"),)), tmp_path)
    with pytest.raises(UserError, match=r"^batch\.seq_len: 256 is longer than the training text; give at most 28$"):
        LanguageModelling(few, 256, seed=0)
    assert LanguageModelling(few, 28, seed=0).sequences_per_epoch == 1
