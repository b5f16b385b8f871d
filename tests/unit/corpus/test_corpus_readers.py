import csv
import json

import pytest

from genesis_ds.corpus.readers import import_path
from genesis_ds.corpus.verses import Flag
from genesis_ds.errors import UserError

RECORDS = [
    {"language": "en", "translation": "en-x", "book": "GEN", "chapter": 1, "verse": 1, "text": 'he said, "go"'},
    {"language": "en", "translation": "en-x", "book": "Genesis", "chapter": 1, "verse": 2, "text": ""},
    {"language": "ko", "translation": "ko-x", "book": 1, "chapter": 1, "verse": 1, "text": "가라"},
]


def write_table(path, records):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        if path.suffix == ".jsonl":
            stream.writelines(json.dumps(record) + "\n" for record in records)
        elif path.suffix == ".tsv":
            rows = [records[0].keys(), *(record.values() for record in records)]
            stream.writelines("\t".join(map(str, row)) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(stream, records[0].keys())
            writer.writeheader()
            writer.writerows(records)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_gives_every_translation_in_it(tmp_path, suffix):
    write_table(tmp_path / f"t{suffix}", RECORDS)
    corpus = import_path(tmp_path / f"t{suffix}")
    assert corpus.translation("en-x").texts == ['he said, "go"', ""]
    assert corpus.translation("en-x").flags.tolist() == [0, Flag.MISSING]
    assert corpus.translation("ko").texts == ["가라"]
    assert corpus.sources[0].licence == "supplied by the user"


def test_a_table_without_its_columns_is_refused(tmp_path):
    (tmp_path / "t.tsv").write_text("book\tverse\n")
    with pytest.raises(UserError, match=r"line 1: no column chapter, text; needed"):
        import_path(tmp_path / "t.tsv", language="en")


def test_plain_lines_are_read_and_bad_ones_counted_without_their_text(tmp_path):
    lines = ["Genesis 1:1 At first", "", "1 John 3:4 - Later", "a secret line", "Psalm 151:1 secret", "Jude 1:2"]
    (tmp_path / "my bible.txt").write_text("\ufeff" + "\r\n".join(lines) + "\nGEN 1:2 more\nGenesis 1:1 secret\n")
    corpus = import_path(tmp_path / "my bible.txt", language="en")
    translation = corpus.translation("my-bible")
    assert translation.verse_ids.tolist() == [1001001, 1001002, 62003004, 65001002]
    assert translation.texts == ["At first", "more", "Later", ""]
    assert "3 of 7 lines are malformed (line 4: does not begin" in corpus.notices[0]
    assert "line 8: repeats a reference" in corpus.notices[0]
    assert "secret" not in " ".join(corpus.notices)
    assert "copyrighted" in corpus.notices[-1]


def test_a_mostly_malformed_file_is_refused_with_the_line(tmp_path):
    (tmp_path / "t.txt").write_text("Genesis 1:1 a\nsecret\nsecret at 3:16 again\n")
    with pytest.raises(UserError, match=r"2 of 3 lines are malformed.*line 2") as error:
        import_path(tmp_path / "t.txt", language="en")
    assert "secret" not in str(error.value)


def test_a_language_that_is_not_said_must_be_given(tmp_path):
    (tmp_path / "t.txt").write_text("Genesis 1:1 a\n")
    with pytest.raises(UserError, match="--language en"):
        import_path(tmp_path / "t.txt")


def test_vref_pairs_keep_merged_and_missing_verses(tmp_path):
    (tmp_path / "vref.txt").write_text("GEN 1:1\nGEN 1:2\nGEN 1:3\nGEN 1:4\nTOB 1:1\n")
    (tmp_path / "eng-first.txt").write_text("one two\n<range>\n\nfour\napocryphal\n")
    (tmp_path / "kor-short.txt").write_text("하나\n")
    corpus = import_path(tmp_path)
    translation = corpus.translation("en")
    assert translation.texts == ["one two", "", "", "four"]
    assert translation.flags.tolist() == [0, Flag.MERGED, Flag.MISSING, 0]
    assert "1 of 5 references are outside the 66 books" in corpus.notices[0]
    assert "kor-short.txt has 1 lines and vref.txt 5" in corpus.notices[1]
    assert import_path(tmp_path / "eng-first.txt").fingerprint == corpus.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", "holds no verse"),
        ("t.tsv", "book\tchapter\tverse\ttext\n", "holds no verse"),
        ("t.docx", "Genesis 1:1 a", "no known format"),
        ("t.jsonl", '{"book": 1}\n', "line 1: no key chapter"),
    ],
)
def test_a_file_without_verses_says_what_was_expected(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        import_path(tmp_path / name, language="en")


def test_paths_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        import_path(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="no known format"):
        import_path(tmp_path)
    (tmp_path / "t.txt").write_bytes(b"Genesis 1:1 caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        import_path(tmp_path / "t.txt", language="fr")


def test_a_folder_of_files_gives_the_translations_of_all(tmp_path):
    write_table(tmp_path / "table.jsonl", RECORDS)
    (tmp_path / "es-rv.tsv").write_text("book\tchapter\tverse\ttext\nGEN\t1\t1\tdijo\n", encoding="utf-8")
    (tmp_path / "hi.txt").write_text("Genesis 1:1 कहा\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no text\n")
    corpus = import_path(tmp_path)
    assert {t.name: t.language for t in corpus.translations} == {"en-x": "en", "ko-x": "ko", "es-rv": "es", "hi": "hi"}
