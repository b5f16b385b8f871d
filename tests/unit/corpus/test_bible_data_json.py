import hashlib
import json

import pytest

from genesis_ds.corpus.readers import import_path
from genesis_ds.corpus.readers.verse_numbers import split_numbered
from genesis_ds.corpus.references import chapter_ids, parse_reference
from genesis_ds.errors import UserError


def chapter_text(identifier, language):
    """Invented text whose length varies between chapters alike in every language."""
    words = 20 + int(hashlib.blake2b(str(identifier).encode(), digest_size=4).hexdigest(), 16) % 100
    return " ".join([f"{language}{identifier}"] * words)


def write_locale(directory, locale, texts):
    path = directory / locale / "bible_data.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"title": "x", "content": text} for text in texts], ensure_ascii=False))


@pytest.fixture
def texts():
    return {language: [chapter_text(i, language) for i in chapter_ids()] for language in ("en", "es")}


def test_complete_translations_align_by_chapter(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    write_locale(tmp_path, "pt_BR", texts["es"])
    corpus = import_path(tmp_path)
    assert corpus.languages == ["en", "pt-BR"]
    assert not corpus.has_verses
    assert [t.verse_ids.tolist() for t in corpus.translations] == [chapter_ids()] * 2


def test_incomplete_and_broken_translations_are_skipped_with_a_notice(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    write_locale(tmp_path, "es", texts["es"][:900])
    (tmp_path / "fr").mkdir()
    (tmp_path / "fr" / "bible_data.json").write_text('[{"content": "secret"')
    corpus = import_path(tmp_path)
    assert corpus.languages == ["en"]
    assert "es/bible_data.json is incomplete: 900 records" in corpus.notices[0]
    assert "fr/bible_data.json is broken JSON" in corpus.notices[1]
    assert "secret" not in " ".join(corpus.notices)
    with pytest.raises(UserError, match="broken JSON"):
        import_path(tmp_path / "fr" / "bible_data.json")


def test_records_without_text_cost_their_chapters_and_not_the_language(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    path = tmp_path / "en" / "bible_data.json"
    records = json.loads(path.read_text())
    records[1], records[2]["content"], records[3]["content"], records[4]["content"] = {"title": "x"}, "", None, "\ud800"
    path.write_text(json.dumps(records))
    corpus = import_path(tmp_path)
    assert corpus.translation("en").verse_ids.tolist() == [chapter_ids()[0], *chapter_ids()[5:]]
    assert "4 of 1189 records have no text under 'content' (number 2, 3, 4, ...)" in corpus.notices[0]


def test_a_file_without_text_in_most_records_or_nested_too_deep_is_skipped(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    write_locale(tmp_path, "es", [""] * 700 + texts["es"][700:])
    (tmp_path / "fr").mkdir()
    (tmp_path / "fr" / "bible_data.json").write_text("[" * 100_000)
    corpus = import_path(tmp_path)
    assert corpus.languages == ["en"]
    assert "700 of 1189 records have no text" in corpus.notices[0]
    assert "fr/bible_data.json is broken JSON (nested too deep)" in corpus.notices[1]


def test_a_lost_chapter_is_found_beside_a_complete_translation(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    lost = chapter_ids().index(parse_reference("Isaiah 7"))
    write_locale(tmp_path, "es", texts["es"][:lost] + texts["es"][lost + 1 :])
    corpus = import_path(tmp_path)
    spanish = corpus.translation("es")
    absent = set(chapter_ids()) - set(spanish.verse_ids.tolist())
    assert parse_reference("Isaiah 7") in absent
    assert len(absent) <= 3
    assert all(text.startswith(f"es{i}") for i, text in zip(spanish.verse_ids.tolist(), spanish.texts, strict=True))
    assert "es/bible_data.json has lost a chapter: ISA 6 to ISA 7 left out" in corpus.notices[0]


def test_a_lost_chapter_without_a_complete_translation_is_taken_to_be_the_last(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"][:-1])
    corpus = import_path(tmp_path)
    assert corpus.translation("en").verse_ids.tolist() == chapter_ids()[:-1]
    assert "as if REV 22 were the lost one" in corpus.notices[0]


def test_a_lost_chapter_that_fits_nowhere_is_skipped(tmp_path, texts):
    write_locale(tmp_path, "en", texts["en"])
    write_locale(tmp_path, "es", sorted(texts["es"], key=len)[1:])
    corpus = import_path(tmp_path)
    assert corpus.languages == ["en"]
    assert "cannot be placed: it was skipped" in corpus.notices[0]


def test_numbered_chapters_become_verses_and_others_stay_whole(tmp_path, texts):
    texts["en"][0] = "1 At first. 2 And then he had 3 sons. 3 And rest."
    write_locale(tmp_path, "en", texts["en"])
    corpus = import_path(tmp_path)
    translation = corpus.translation("en")
    assert translation.verse_ids[:4].tolist() == [1001001, 1001002, 1001003, 1002000]
    assert translation.texts[:3] == ["At first.", "And then he had 3 sons.", "And rest."]
    assert "1188 of 1189 chapters have no complete verse numbers" in corpus.notices[0]


@pytest.mark.parametrize(
    ("text", "chapter", "verses"),
    [
        ("1 one 2 Two\n3 three", 1, ["one", "Two", "three"]),
        ("7 one, 2 two; 3 three", 7, ["one,", "two;", "three"]),
        ("A song. 1 One. 2 Two.", 1, ["A song. One.", "Two."]),
        ("1 er hatte 2 Söhne. 2 Und 3 Töchter. 3 Und", 1, ["er hatte 2 Söhne.", "Und 3 Töchter.", "Und"]),
        ("1 태초에 2 땅이 3 하나님이", 1, ["태초에", "땅이", "하나님이"]),
    ],
)
def test_verse_numbers_split_and_numbers_in_the_text_do_not(text, chapter, verses):
    assert [verse for _, verse in split_numbered(text, chapter)] == verses


@pytest.mark.parametrize("text", ["no numbers", "1 only one", "he had 1 son and 2 wives", "1 One. 2 Two. 4 Four.", ""])
def test_text_without_complete_verse_numbers_is_not_split(text):
    assert split_numbered(text, 1) is None
