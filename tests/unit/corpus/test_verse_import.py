"""What is in the user's file is read right, or its line is rejected with a notice: no text is damaged in silence."""

import contextlib
import csv
import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from genesis_ds.corpus.cleaning import clean_text
from genesis_ds.corpus.readers import import_path
from genesis_ds.corpus.references import format_reference
from genesis_ds.corpus.storage import load_corpus, save_corpus
from genesis_ds.corpus.verses import Flag
from genesis_ds.errors import UserError

HEADER = "book,chapter,verse,text\n"
VERSES = st.tuples(st.sampled_from([1001, 8001, 19119, 66022]), st.integers(1, 176)).map(lambda v: v[0] * 1000 + v[1])
CONTROLS = "".join(map(chr, (*range(9), *range(14, 32), 127)))
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r" + CONTROLS)).filter(
    lambda text: text.strip() not in ("nan", "NaN", "<NA>", "<range>")
)
ROWS = st.dictionaries(VERSES, LINES, min_size=1, max_size=8)


@pytest.fixture
def imported(tmp_path):
    """Rows {reference: text} of what was imported from a file of that name and content, and the notices."""

    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8"))
        corpus = import_path(path, language="en")
        (translation,) = corpus.translations
        references = map(format_reference, translation.verse_ids.tolist())
        return dict(zip(references, translation.texts, strict=True)), " ".join(corpus.notices[:-1]), translation

    return read


def write_plain(path, rows):
    path.write_text("".join(f"{format_reference(i)}: {text}\n" for i, text in rows.items()), encoding="utf-8")


def write_tsv(path, rows):
    lines = [f"{i // 10**6}\t{i // 1000 % 1000}\t{i % 1000}\t{text}\n" for i, text in rows.items()]
    path.write_text("book\tchapter\tverse\ttext\n" + "".join(lines), encoding="utf-8")


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["book", "chapter", "verse", "text"])
        writer.writerows([i // 10**6, i // 1000 % 1000, i % 1000, f"{text}\n{text}"] for i, text in rows.items())


def write_jsonl(path, rows):
    cells = ({"book": i // 10**6, "chapter": i // 1000 % 1000, "verse": i % 1000, "text": t} for i, t in rows.items())
    path.write_text("".join(json.dumps(record) + "\n" for record in cells), encoding="utf-8")


def write_vref(path, rows):
    (path.parent / "vref.txt").write_text("".join(f"{format_reference(i)}\n" for i in rows), encoding="utf-8")
    path.write_text("".join(f"{text}\n" for text in rows.values()), encoding="utf-8")


def test_a_text_with_a_control_character_is_rejected_by_line(imported):
    verses, notices, _ = imported("t.txt", "Genesis 1:1 one\nGenesis 1:2 the ea\0rth\nRuth 1:1 x\n")
    assert verses == {"GEN 1:1": "one", "RUT 1:1": "x"}
    assert "line 2: the text holds the control character U+0000" in notices


def test_a_lost_line_end_before_a_reference_is_one(imported):
    lines = "Genesis 1:1 one\u2028Genesis 1:2 two\vGenesis 1:3 three\nGenesis 1:4 a\u2028b\n"
    verses, _, _ = imported("t.txt", lines)
    assert verses == {"GEN 1:1": "one", "GEN 1:2": "two", "GEN 1:3": "three", "GEN 1:4": "a b"}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.txt", write_plain),
        ("t.tsv", write_tsv),
        ("t.CSV", write_csv),
        ("t.jsonl", write_jsonl),
        ("en-t.txt", write_vref),
    ],
)
@settings(max_examples=40)
@given(rows=ROWS)
def test_every_text_comes_through_import_and_storage(tmp_path_factory, name, write, rows):
    expected = {i: clean_text(f"{text}\n{text}" if write is write_csv else text) for i, text in sorted(rows.items())}
    assume(any(expected.values()))
    directory = tmp_path_factory.mktemp("import")
    write(directory / name, rows)
    save_corpus(import_path(directory / name, language="en"), directory / "c")
    corpus = load_corpus(directory / "c")
    assert len(corpus.notices) == 1  # the copyright's
    (translation,) = corpus.translations
    assert dict(zip(translation.verse_ids.tolist(), translation.texts, strict=True)) == expected
    assert translation.present.tolist() == [bool(text) for text in expected.values()]


@pytest.mark.parametrize("name", ["t.txt", "t.tsv", "t.csv", "t.jsonl"])
@given(content=st.text() | st.text('RUT 1:3-4.,"\n\r\t{}[]'))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("import") / name
    header = {".tsv": HEADER.replace(",", "\t"), ".csv": HEADER}.get(path.suffix, "")
    path.write_bytes((header + content).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UserError):
        assert import_path(path, language="en").verse_ids.size


@pytest.mark.parametrize("dash", ["-", "\u2013"])
def test_a_range_of_verses_has_its_text_in_the_first(imported, dash):
    plain, notices, translation = imported("t.txt", f"Ruth 1:2 Two\nRuth 1:3{dash}4 Two in one\nRuth 1:5 - 4 men\n")
    assert plain == {"RUT 1:2": "Two", "RUT 1:3": "Two in one", "RUT 1:4": "", "RUT 1:5": "4 men"}
    assert translation.flags.tolist() == [0, 0, Flag.MERGED, 0]
    table, *_ = imported("t.csv", f"{HEADER}RUT,1,2,Two\nRUT,1,3{dash}4,Two in one\nRUT,1,5,4 men\n")
    assert table == plain
    assert notices == ""


@pytest.mark.parametrize("verse", ["22-2:1", "3-4a", "3:4", "3,4", "3a", "4-3", "3-4-5", "3-999", "3-2000", "0-4"])
def test_what_is_no_range_within_a_chapter_is_rejected_by_line(imported, verse):
    rows, notices, _ = imported("t.txt", f"Ruth 1:1 One\nRuth 1:{verse} Secret\n")
    assert rows == {"RUT 1:1": "One"}
    assert "1 of 2 lines are malformed (line 2: " in notices
    assert "Secret" not in notices


def test_a_range_over_a_verse_that_stands_already_is_rejected(imported):
    rows, notices, _ = imported("t.txt", "Ruth 1:4 Four\nRuth 1:3-4 Secret\nRuth 1:5 Five\n")
    assert rows == {"RUT 1:4": "Four", "RUT 1:5": "Five"}
    assert "line 2: repeats a reference" in notices


def test_marks_that_begin_a_verse_stay(imported):
    rows, *_ = imported("t.txt", "Ruth 1:1 ...and then\nRuth 1:2 - one\nRuth 1:3. two\nRuth 1:4:\u2014 \u00bfthree?\n")
    assert list(rows.values()) == ["...and then", "one", "two", "\u2014 \u00bfthree?"]


@pytest.mark.parametrize(("name", "comma"), [("t.csv", ","), ("t.tsv", "\t")])
def test_a_row_with_other_cells_than_the_header_is_rejected_by_line(imported, name, comma):
    lines = ["book,chapter,verse,text", "RUT,1,1,One, with, commas", "RUT,1,2,Plain", "RUT,1,3", "RUT,1,4,Four"]
    rows, notices, _ = imported(name, "\n".join(lines).replace(",", comma))
    assert rows == {"RUT 1:2": "Plain", "RUT 1:4": "Four"}
    assert "line 2: 6 cells, the header has 4; line 4: 3 cells" in notices


@pytest.mark.parametrize("last", ['RUT,1,4,"dd"', "RUT,1,4,dd", 'RUT,1,4,he said "dd"'])
def test_a_quote_that_is_not_closed_costs_its_own_verse_alone(imported, last):
    rows, notices, _ = imported("t.csv", f'{HEADER}RUT,1,1,"He said\nRUT,1,2,bb\nRUT,1,3,cc\n{last}\nRUT,1,5,ee\n')
    assert list(rows) == ["RUT 1:2", "RUT 1:3", "RUT 1:4", "RUT 1:5"]
    assert rows["RUT 1:2"] == "bb"
    assert "1 of 5 lines are malformed (line 2: a quote that is not closed" in notices


def test_a_quoted_verse_may_have_several_lines(imported):
    rows, notices, _ = imported("t.csv", f'{HEADER}RUT,1,1,"One\n\nand, ""more"""\nRUT,1,2,"two" x\nRUT,1,3,three\n')
    assert rows == {"RUT 1:1": 'One and, "more"', "RUT 1:3": "three"}
    assert "line 5: a quote" in notices


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("book,chapter,verse,text,text\nRUT,1,1,a,b\n")
    with pytest.raises(UserError, match=r"t\.csv, line 1: column text stands twice"):
        import_path(tmp_path / "t.csv", language="en")


def test_a_text_that_pandas_has_not_is_missing_and_no_word(imported):
    records = [
        {"book": "RUT", "chapter": 1, "verse": verse, "text": text} for verse, text in [(1, math.nan), (2.0, "b")]
    ]
    rows, notices, _ = imported("t.jsonl", "\n".join(map(json.dumps, records)))
    assert (rows, notices) == ({"RUT 1:1": "", "RUT 1:2": "b"}, "")
    rows, *_ = imported("t.csv", f"{HEADER}RUT,1,1,nan\nRUT,1,2,b\n")
    assert rows == {"RUT 1:1": "", "RUT 1:2": "b"}


@pytest.mark.parametrize(
    "record",
    [
        '{"book":"RUT","chapter":1,"verse":1,"text":["aa","bb"]}',
        '{"book":"RUT","chapter":1,"verse":1,"text":true}',
        '{"book":"RUT","chapter":1,"verse":1,"text":"a","text":"b"}',
        r'{"book":"RUT","chapter":1,"verse":1,"text":"half \ud800"}',
        '{"book":"RUT","chapter":1,"verse":1e400,"text":"a"}',
        '{"book":"RUT","chapter":1,"verse":%s,"text":"a"}' % ("9" * 5000),
        '{"book":"RUT","chapter":1,"verse":"%s","text":"a"}' % ("9" * 5000),
        '{"book":%s,"chapter":1,"verse":1,"text":"a"}' % ("[" * 100_000 + "]" * 100_000),
        "[" * 100_000,
        '{"book":"RUT","chapter":1}',
        '{"language":"no tag","book":"RUT","chapter":1,"verse":1,"text":"a"}',
    ],
)
def test_a_record_that_is_no_verse_is_rejected_by_line(imported, record):
    rows, notices, _ = imported("t.jsonl", record + '\n{"book":"RUT","chapter":1,"verse":2,"text":"b"}\n')
    assert rows == {"RUT 1:2": "b"}
    assert "1 of 2 lines are malformed (line 1: " in notices


def test_numbers_of_thousands_of_digits_are_rejected_by_line(imported):
    rows, notices, _ = imported("t.txt", f"Genesis 1:{'9' * 5000} a\nGenesis 1:1 b\n")
    assert rows == {"GEN 1:1": "b"}
    assert "line 1: chapter or verse is no number" in notices


def test_a_lone_carriage_return_is_white_space(tmp_path):
    (tmp_path / "vref.txt").write_bytes(b"RUT 1:1\r\nRUT 1:2\r\nRUT 1:3\r\n")
    (tmp_path / "eng-x.txt").write_bytes(b"a a\nb\rb\nc c\n")
    (tmp_path / "fra-y.TXT").write_bytes(b"d d\re e\rf f\r")
    corpus = import_path(tmp_path)
    assert corpus.translation("en").texts == ["a a", "b b", "c c"]
    assert corpus.translation("fr").texts == ["d d", "e e", "f f"]


def test_a_lone_carriage_return_before_a_reference_ends_a_line(imported):
    rows, *_ = imported("t.txt", "Ruth 1:1 a\ra\rRuth 1:2 b\nRuth 1:3 c\nRuth 1:4 d\n")
    assert rows == {"RUT 1:1": "a a", "RUT 1:2": "b", "RUT 1:3": "c", "RUT 1:4": "d"}
