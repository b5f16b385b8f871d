from genesis_ds.corpus.inspect import LEGEND, describe, format_description, format_shared_verse
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, CrossReferences, Flag, Translation


def test_a_description_counts_what_is_there_and_what_is_not():
    english = Translation.from_rows("en-x", "en", {1001001: ("abc", 0), 1001002: ("de", 0), 1001003: ("f", 0)})
    korean = Translation.from_rows("ko-x", "ko", {1001001: ("가", 0), 1001002: ("", int(Flag.MERGED))})
    corpus = Corpus((english, korean), CrossReferences.from_pairs([(1001001, 1001002)], "x"))
    description = describe(corpus, split_verses(corpus, chapter_fraction=0), {"en-x": 1234})
    first, second = description.translations
    assert (first.verses, first.bytes, first.bytes_per_verse, first.tokens) == (3, 6, 2.0, 1234)
    assert (second.verses, second.missing, second.merged, second.absent, second.bytes) == (1, 0, 1, 1, 3)
    assert (description.ids, description.ids_in_all, description.cross_references) == (3, 1, 1)
    assert description.tiers == {"train": 3, "val_chapter": 0, "val_book": 0, "dropped": 0}
    text = format_description(description)
    assert "1,234" in text
    assert "with text in every translation: 1" in text
    assert "tokens" not in format_description(describe(corpus, split_verses(corpus)))


def test_every_column_is_explained_in_a_line_of_its_own():
    corpus = Corpus((Translation.from_rows("x", "en", {1001001: ("abc", 0)}),))
    text = format_description(describe(corpus, split_verses(corpus), {"x": 3}, {"x": 0}), seq_len=64)
    columns = text.splitlines()[0].split()[2:]
    assert columns == list(LEGEND)
    assert [line.split()[0] for line in text.splitlines()[2:] if line.startswith("  ")] == columns
    assert "windows      of 64 tokens" in text


def test_the_verse_that_most_translations_have_is_shown_in_them_and_cut_where_it_is_long():
    first = Translation.from_rows("en-x", "en", {1001001: ("only here", 0), 1001002: ("the same", 0)})
    second = Translation.from_rows("ko", "ko", {1001002: ("가" * 300, 0), 1001003: ("", int(Flag.MERGED))})
    third = Translation.from_rows("de", "de", {1001003: ("anders", 0)})
    lines = format_shared_verse(Corpus((first, second, third))).splitlines()
    assert lines == ["GEN 1:2 in 2 of 3 translations:", "  en-x  the same", f"  ko    {'가' * 48}..."]
