from genesis_ds.corpus.inspect import describe, format_description
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
