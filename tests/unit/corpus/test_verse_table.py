import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_ds.corpus.references import chapter_ids
from genesis_ds.corpus.storage import load_corpus, save_corpus
from genesis_ds.corpus.verses import Corpus, CrossReferences, Flag, Source, Translation
from genesis_ds.errors import UserError

IDS = st.tuples(st.sampled_from(chapter_ids()), st.integers(0, 176)).map(sum)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"))
FLAGS = st.sampled_from([0, int(Flag.MERGED), int(Flag.TITLE)])
ROWS = st.dictionaries(IDS, st.tuples(TEXTS, FLAGS), max_size=20)


def corpus_of(**texts):
    """One translation per language with these texts from GEN 1:1 on."""
    rows = {language: {1001001 + i: (t, 0) for i, t in enumerate(lines)} for language, lines in texts.items()}
    return Corpus(tuple(Translation.from_rows(language, language, r) for language, r in rows.items()))


@given(ROWS, ROWS, st.lists(st.tuples(IDS, IDS), max_size=5), st.integers(-9, 9))
def test_a_corpus_survives_saving_and_loading(tmp_path_factory, first, second, links, weight):
    translations = (Translation.from_rows("a-1", "en", first), Translation.from_rows("b", "ko", second))
    if not any(translation.present.any() for translation in translations):
        return
    sources = (Source("a-1", "en", "licence", "0" * 64, ("read me",), 1),)
    corpus = Corpus(translations, CrossReferences.from_pairs(links, "here", weight), sources, ("notice",))
    directory = tmp_path_factory.mktemp("corpora") / "c"
    save_corpus(corpus, directory)
    loaded = load_corpus(directory)
    assert loaded.fingerprint == corpus.fingerprint
    assert (loaded.sources, loaded.notices) == (corpus.sources, corpus.notices)
    for before, after in zip(corpus.translations, loaded.translations, strict=True):
        assert (before.name, before.language, before.texts) == (after.name, after.language, after.texts)
        np.testing.assert_array_equal(before.verse_ids, after.verse_ids)
        np.testing.assert_array_equal(before.flags, after.flags)
    np.testing.assert_array_equal(loaded.cross_references.weights, corpus.cross_references.weights)


def test_the_files_can_be_grepped(tmp_path):
    save_corpus(corpus_of(en=["in the start", ""]), tmp_path / "c")
    lines = (tmp_path / "c" / "verses" / "en.tsv").read_text().splitlines()
    assert lines[1:] == ["1001001\tGEN 1:1\t\tin the start", "1001002\tGEN 1:2\tmissing\t"]


def test_the_fingerprint_follows_the_content_and_not_the_files(tmp_path):
    corpus = corpus_of(en=["a", "b"])
    save_corpus(corpus, tmp_path / "c")
    os.utime(tmp_path / "c" / "manifest.json", (1, 1))
    assert load_corpus(tmp_path / "c").fingerprint == corpus.fingerprint
    assert corpus_of(en=["a", "c"]).fingerprint != corpus.fingerprint
    assert corpus_of(en=["ab", ""]).fingerprint != corpus_of(en=["a", "b"]).fingerprint


def test_saving_replaces_a_corpus_but_nothing_else(tmp_path):
    save_corpus(corpus_of(en=["a"]), tmp_path / "c")
    save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    assert load_corpus(tmp_path / "c").translation("en").texts == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").touch()
    with pytest.raises(UserError, match="is no corpus: it is left alone"):
        save_corpus(corpus_of(en=["a"]), tmp_path / "photos")


def test_files_of_others_beside_a_corpus_are_named_and_left_alone(tmp_path):
    save_corpus(corpus_of(en=["a"], es=["a"]), tmp_path / "c")
    (tmp_path / "c" / "src").mkdir()
    (tmp_path / "c" / "src" / "a.txt").write_text("GEN 1:1 b\n")
    with pytest.raises(UserError, match=r"holds more than a corpus: src, src/a.txt; it is left alone"):
        save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    assert (tmp_path / "c" / "src" / "a.txt").read_text() == "GEN 1:1 b\n"
    (tmp_path / "c" / "src").rename(tmp_path / "src")
    (tmp_path / "c" / "verses" / "mine.tsv").touch()
    with pytest.raises(UserError, match=r"verses/mine.tsv; it"):
        save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    (tmp_path / "c" / "verses" / "mine.tsv").unlink()
    save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    assert load_corpus(tmp_path / "c").languages == ["en"]


def test_a_corpus_takes_the_place_of_another_in_one_step(tmp_path, monkeypatch):
    save_corpus(corpus_of(en=["a"]), tmp_path / "c")
    renamed, rename = [], os.rename

    def noted(*paths):
        rename(*paths)
        renamed.append(paths)

    monkeypatch.setattr(os, "rename", noted)
    save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    assert load_corpus(tmp_path / "c").translation("en").texts == ["b"]
    assert renamed == []


def test_a_corpus_that_was_edited_by_hand_is_not_replaced(tmp_path):
    save_corpus(corpus_of(en=["a"]), tmp_path / "c")
    path = tmp_path / "c/verses/en.tsv"
    path.write_text(path.read_text().replace("\ta", "\tedited"))
    with pytest.raises(UserError, match="is left alone, since it is not as it was saved and may hold your changes"):
        save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    assert "edited" in path.read_text()


def test_a_failed_save_leaves_the_old_corpus_and_no_litter(tmp_path, monkeypatch):
    save_corpus(corpus_of(en=["a"]), tmp_path / "c")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "the disk is gone")))
    with pytest.raises(OSError, match="the disk is gone"):
        save_corpus(corpus_of(en=["b"]), tmp_path / "c")
    monkeypatch.undo()
    assert load_corpus(tmp_path / "c").translation("en").texts == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_loading_what_is_no_corpus_says_so(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_corpus(tmp_path / "absent")
    with pytest.raises(UserError, match="is no corpus"):
        load_corpus(tmp_path)


def test_a_changed_or_damaged_corpus_is_refused(tmp_path):
    save_corpus(corpus_of(en=["a", "b"]), tmp_path / "c")
    path = tmp_path / "c" / "verses" / "en.tsv"
    path.write_text(path.read_text().replace("\tb", "\tx"))
    with pytest.raises(UserError, match="fingerprint differs"):
        load_corpus(tmp_path / "c")
    for content in ("", "1001001\n", f"{'9' * 5000}\tGEN 1:1\t\tb\n", "99999999999\tGEN 1:1\t\tb\n"):
        path.write_text(f"verse_id\treference\tflags\ttext\n{content}")
        with pytest.raises(UserError, match="damaged"):
            load_corpus(tmp_path / "c")
    manifest = tmp_path / "c" / "manifest.json"
    stored = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**stored, "translations": []}))
    with pytest.raises(UserError, match="holds no verse"):
        load_corpus(tmp_path / "c")
    for content in ("[" * 100_000, json.dumps({**stored, "format": int("9" * 4000)})):
        manifest.write_text(content)
        with pytest.raises(UserError, match="is no corpus of this version"):
            load_corpus(tmp_path / "c")


def test_empty_texts_are_missing_unless_merged():
    rows = {1001001: ("a", 0), 1001002: ("", 0), 1001003: ("", int(Flag.MERGED))}
    translation = Translation.from_rows("en", "en", rows)
    assert translation.flags.tolist() == [0, Flag.MISSING, Flag.MERGED]
    assert translation.present.tolist() == [True, False, False]


def test_translations_are_found_by_name_and_language():
    corpus = corpus_of(en=["a"], ko=["b"])
    assert corpus.languages == ["en", "ko"]
    assert corpus.translation("ko").texts == ["b"]
    with pytest.raises(UserError, match="no language or translation 'kr'"):
        corpus.translation("kr")


def test_chapter_rows_are_told_from_verses():
    chapters = Corpus((Translation.from_rows("en", "en", {1001000: ("text", 0)}),))
    assert not chapters.has_verses
    assert corpus_of(en=["a"]).has_verses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("en", "en", [1001002, 1001001], ["a", "b"]), "strictly ascending"),
        (("en", "en", [1001001], ["a\tb"]), "tab or a line break"),
        (("en", "en", [7], ["a"]), "outside the 66 books"),
        (("../en", "en", [1001001], ["a"]), "translation name"),
        (("en", "English (US)", [1001001], ["a"]), "BCP-47"),
    ],
)
def test_an_impossible_translation_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Translation(*arguments)


def test_a_corpus_without_text_is_refused():
    with pytest.raises(UserError, match="holds no verse"):
        corpus_of(en=[""])
