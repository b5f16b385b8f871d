import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_ds.corpus.references import (
    CHAPTERS,
    USFM_CODES,
    chapter_ids,
    format_reference,
    parse_book,
    parse_reference,
    split_id,
    verse_id,
)
from genesis_ds.errors import UserError

VERSE_IDS = st.tuples(st.sampled_from(chapter_ids()), st.integers(0, 176)).map(sum)


def test_the_canon_has_66_books_and_1189_chapters():
    assert len(USFM_CODES) == len(set(USFM_CODES)) == 66
    assert sum(CHAPTERS) == len(chapter_ids()) == 1189


@given(VERSE_IDS)
def test_a_reference_survives_printing_and_parsing(identifier):
    assert parse_reference(format_reference(identifier)) == identifier
    assert verse_id(*split_id(identifier)) == identifier


@pytest.mark.parametrize(
    ("text", "usfm"),
    [
        ("Genesis 1:1", "GEN 1:1"),
        ("1 John 3:4", "1JN 3:4"),
        ("I John 3:4", "1JN 3:4"),
        ("Second Kings 2:11", "2KI 2:11"),
        ("Song of Songs 1:2", "SNG 1:2"),
        ("song of solomon 1:2", "SNG 1:2"),
        ("Ps. 23:1", "PSA 23:1"),
        ("1Cor.13.4", "1CO 13:4"),
        ("John 3", "JHN 3"),
        ("Isaiah 53:5", "ISA 53:5"),
    ],
)
def test_names_and_abbreviations_are_understood(text, usfm):
    assert format_reference(parse_reference(text)) == usfm


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genesys 1:1", "did you mean 'genesis'"),
        ("Genesis 51:1", "GEN has 50 chapters"),
        ("Psalm 119:177", "no chapter has more than 176 verses"),
        ("in the beginning", "is no reference"),
        (f"Genesis 1:{'9' * 5000}", "does not exist: no book has a chapter or a verse of that number"),
        ("PSS 1:1", "unknown book 'PSS'"),
    ],
)
def test_a_wrong_reference_says_what_is_wrong(text, message):
    with pytest.raises(UserError, match=message):
        parse_reference(text)


def test_every_code_is_a_name_of_its_own_book():
    assert [parse_book(code) for code in USFM_CODES] == list(range(1, 67))
