import pytest

from genesis_ds.config.measurement import CONCEPTS
from genesis_ds.corpus.concepts import concepts_by_keyword, read_topics
from genesis_ds.corpus.words import word_pattern
from genesis_ds.errors import UserError

KNOWN = [1001001, 1001002, 43003016, 43003000]


def found(words, text):
    return [match.group() for match in word_pattern(words).finditer(text)]


def test_words_are_whole_in_any_case_and_a_star_stands_for_any_ending():
    text = "Save the saved; SAVED, unsaved. Creation created creatures."
    assert found(["saved"], text) == ["saved", "SAVED"]
    assert found(["creat*"], text) == ["Creation", "created", "creatures"]
    assert found(["judge"], "judged judges judge") == ["judge"]


def test_phrases_and_other_scripts_are_found_and_the_longest_wins():
    assert found(["por tanto", "por", "tanto"], "Y por  tanto, por eso") == ["por  tanto", "por"]
    assert found(["foundation* of the world"], "from the foundations of the world") == ["foundations of the world"]
    assert found(["그러므로", "또"], "그러므로 또 또한") == ["그러므로", "또"]


def test_a_verse_has_the_concept_of_its_words_unless_it_has_several():
    texts = {
        1: "In the beginning God created the heaven and the earth.",
        2: "The LORD is my light and my salvation; whom shall I fear?",
        3: "my covenant is for thy salvation",
        4: "Jesus wept.",
    }
    assert concepts_by_keyword(texts, CONCEPTS) == {1: "creation", 2: "salvation"}


def test_topics_are_read_from_a_file_and_what_cannot_be_used_is_counted(tmp_path):
    path = tmp_path / "topics.tsv"
    path.write_text(
        "# topic\treference\n\nlove\tJohn 3:16\ncreation\tGen.1.1\nlight\tGEN 1:2\ncreation\tGenesis 1:2\n"
        "love\tJohn 3\nlove\tJohn 3:17\nno reference\nlove\tJonn 3:16\n"
    )
    topics, notices = read_topics(path, KNOWN)
    assert topics == {43003016: "love", 1001001: "creation", 43003000: "love"}
    (notice,) = notices
    assert "skipped 3 lines (line 8: the run has no verse JHN 3:17; line 9: needs a topic" in notice
    assert "line 10: unknown book 'Jonn'" in notice


def test_a_file_without_a_usable_line_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "topics.tsv"
    path.write_text("love,John 3:16\n")
    with pytest.raises(UserError, match=r"skipped 1 lines .*needed: lines of a topic, a tab and a reference"):
        read_topics(path, KNOWN)
    with pytest.raises(UserError, match="No such file"):
        read_topics(tmp_path / "absent.tsv", KNOWN)
