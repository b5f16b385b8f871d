import pytest

from genesis_ds.corpus.readers import import_path
from genesis_ds.corpus.references import format_reference, parse_numbers
from genesis_ds.corpus.verses import Flag
from genesis_ds.corpus.versification import DIVIDED, ENGLISH_OF, ENGLISH_ONLY, ORIGINAL_ONLY, recognise


def number(reference):
    book, chapter, verse = parse_numbers(reference)
    return book * 1_000_000 + chapter * 1000 + verse


@pytest.fixture
def imported(tmp_path):
    """{reference: (text, flags)} and the notices of a vref.txt of these references, each line saying its own."""

    def read(references, **texts):
        (tmp_path / "vref.txt").write_text("".join(f"{reference}\n" for reference in references))
        lines = [texts.get(reference.replace(" ", "_").replace(":", "_"), reference) for reference in references]
        (tmp_path / "eng-x.txt").write_text("".join(f"{line}\n" for line in lines))
        corpus = import_path(tmp_path)
        (t,) = corpus.translations
        rows = zip(map(format_reference, t.verse_ids.tolist()), t.texts, t.flags.tolist(), strict=True)
        return {reference: (text, flags) for reference, text, flags in rows}, " ".join(corpus.notices[:-1])

    return read


@pytest.mark.parametrize(
    ("original", "english"),
    [
        ("GEN 32:1", "GEN 31:55"),
        ("EXO 7:29", "EXO 8:4"),
        ("1CH 5:41", "1CH 6:15"),
        ("PSA 3:9", "PSA 3:8"),
        ("PSA 51:21", "PSA 51:19"),
        ("PSA 51:2", "PSA 51:1"),
        ("JOL 3:5", "JOL 2:32"),
        ("JOL 4:21", "JOL 3:21"),
        ("MAL 3:24", "MAL 4:6"),
        ("2CO 13:13", "2CO 13:14"),
    ],
)
def test_verses_of_the_original_numbering_have_their_english_numbers(original, english):
    assert ENGLISH_OF[number(original)] == number(english)


def test_the_numberings_of_hebrew_and_english_differ_by_as_many_verses_as_published():
    # 31,170 verses of the 66 books in eBible's vref.txt, 31,102 in the King James Version
    assert (len(ORIGINAL_ONLY), len(ENGLISH_ONLY)) == (204, 136)
    assert len(ORIGINAL_ONLY) - len(ENGLISH_ONLY) == 31_170 - 31_102
    assert sorted(ENGLISH_OF.values()) == [english for _, english in sorted(ENGLISH_OF.items())]
    assert not DIVIDED.keys() & set(ENGLISH_OF.values())


def test_a_numbering_is_recognised_by_most_of_what_only_one_has():
    assert recognise(map(number, ["JOL 4:1", "MAL 3:24", "ACT 19:41"])).original
    assert recognise(map(number, ["JOL 2:32", "MAL 4:6", "3JN 1:15"])).foreign == (number("3JN 1:15"),)
    assert recognise(map(number, ["RUT 1:1", "JOL 2:1"])).certain
    assert not recognise(map(number, ["JOL 3:1", "JOL 3:2"])).certain


def test_original_numbers_become_english_ones_with_a_notice(imported):
    psalm, joel = [f"PSA 3:{verse}" for verse in range(1, 10)], ["JOL 2:27", "JOL 3:1", "JOL 3:5", "JOL 4:1"]
    rows, notices = imported([*psalm, *joel])
    assert rows["PSA 3:1"] == ("PSA 3:1 PSA 3:2", Flag.TITLE)
    assert rows["PSA 3:8"] == ("PSA 3:9", 0)
    assert [rows[f"JOL {verse}"][0] for verse in ("2:27", "2:28", "2:32", "3:1")] == joel
    assert len(rows) == 8 + 4
    assert "is numbered as in the original languages: 11 verses were given their English numbers" in notices


def test_titles_and_merged_lines_keep_their_meaning(imported):
    references = [
        "PSA 3:1",
        "PSA 3:2",
        "PSA 3:9",
        "PSA 13:6",
        "ISA 63:19",
        "JON 2:1",
        "JON 2:2",
        "3JN 1:14",
        "3JN 1:15",
    ]
    rows, notices = imported(references, PSA_3_1="", ISA_63_19="", JON_2_1="<range>", **{"3JN_1_15": "<range>"})
    assert rows["PSA 3:1"] == ("PSA 3:2", 0)
    assert (rows["PSA 13:5"], rows["PSA 13:6"]) == (("PSA 13:6", 0), ("", Flag.MERGED))
    assert (rows["ISA 63:19"], rows["ISA 64:1"]) == (("", Flag.MISSING), ("", Flag.MISSING))
    assert (rows["JON 1:17"], rows["JON 2:1"]) == (("", Flag.MERGED), ("JON 2:2", 0))
    assert rows["3JN 1:14"] == ("3JN 1:14", 0)
    assert "PSA 13:6, ISA 64:1 count as merged" in notices


def test_english_numbers_stay(imported):
    rows, notices = imported(["PSA 3:1", "JOL 2:32", "JOL 3:21", "MAL 4:6", "3JN 1:15"])
    assert all(text == reference for reference, (text, _) in rows.items())
    assert "is numbered as in English Bibles except for 3JN 1:15: kept as they stand" in notices


def test_where_nothing_tells_the_numbering_it_is_said(imported):
    assert imported(["RUT 1:1", "RUT 1:2"])[1] == ""
    rows, notices = imported(["JOL 3:1"])
    assert rows == {"JOL 3:1": ("JOL 3:1", 0)}
    assert "may be numbered as in English Bibles or as in the original languages" in notices


def test_a_verse_of_the_other_numbering_never_takes_a_place(imported):
    rows, notices = imported(["JOL 2:28", "JOL 3:1", "JOL 4:1", "JOL 4:2"])
    assert rows["JOL 2:28"] == ("JOL 3:1", 0)
    assert "line 1: vref.txt repeats a reference" in notices
    assert "JOL 2:28 are of the English numbering" in notices


def test_the_psalms_of_solomon_are_no_psalms(imported):
    rows, notices = imported(["PSA 1:1", "PSA 1:2", "PSS 1:3"])
    assert list(rows) == ["PSA 1:1", "PSA 1:2"]
    assert "1 of 3 references are outside the 66 books (first: line 3)" in notices
