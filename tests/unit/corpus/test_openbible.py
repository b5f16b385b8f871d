import pytest

from genesis_ds.corpus.readers.openbible import read_cross_references
from genesis_ds.errors import UserError

HEADER = "From Verse\tTo Verse\tVotes\t#www.openbible.info CC-BY 2024-01-01"
KNOWN = [1001001, 19033006, 19033007, 19033009, 43001001, 43001002, 43002001, 58011003]


@pytest.fixture
def read(tmp_path):
    def read(*lines, header=HEADER):
        (tmp_path / "links.txt").write_text("\r\n".join([header, *lines, ""]))
        return read_cross_references(tmp_path / "links.txt", KNOWN)

    return read


def links_of(links):
    return list(zip(links.from_ids.tolist(), links.to_ids.tolist(), links.weights.tolist(), strict=True))


def test_rows_are_links_weighted_by_their_votes(read):
    links, notices = read("John.1.1\tGen.1.1\t325", "Gen.1.1\tHeb.11.3\t125\textra", "Gen.1.1\tJohn.1.2\t1")
    assert links_of(links) == [(1001001, 43001002, 1), (1001001, 58011003, 125), (43001001, 1001001, 325)]
    assert set(links.sources) == {"openbible.info"}
    assert notices == []


def test_a_range_links_its_verses_and_a_passage_its_first(read):
    links, notices = read(
        "Gen.1.1\tPs.33.6-Ps.33.9\t9", "Gen.1.1\tJohn.1.2-John.2.3\t7", "John.1.1\tJohn.1.1-John.1.2\t3"
    )
    psalm = [(1001001, 19033000 + verse, 9) for verse in (6, 7, 9)]
    assert links_of(links) == [*psalm, (1001001, 43001002, 7), (43001001, 43001002, 3)]
    assert notices == []


def test_disputed_rows_are_left_out_and_the_most_votes_count(read):
    rows = [
        "Gen.1.1\tHeb.11.3\t0",
        "Gen.1.1\tJohn.1.1\t-31",
        "Gen.1.1\tPs.33.6-Ps.33.7\t2",
        "Gen.1.1\tPs.33.7\t5",
        "Gen.1.1\tPs.33.7\t1",
    ]
    links, notices = read(*rows)
    assert links_of(links) == [(1001001, 19033006, 2), (1001001, 19033007, 5)]
    assert notices == []


def test_rows_that_cannot_be_used_are_counted_and_the_first_named(read):
    bad = [
        "Gen.1.1\tTob.1.1\t3",
        "Gen.1.2\tGen.1.1\t3",
        "Gen.1.1\tHeb.11.3",
        "Gen.1.1\tHeb.11.3\tmany",
        "Gen.1.1\tPs.33.9-Ps.33.6\t2",
    ]
    links, (notice,) = read(bad[0], "Gen.1.1\tHeb.11.3\t125", *bad[1:], "", "Gen.1.1\tnowhere\t1")
    assert links_of(links) == [(1001001, 58011003, 125)]
    assert "skipped 6 rows (line 2: unknown book 'Tob'" in notice
    assert (
        "line 4: Gen.1.2 or Gen.1.1 is not in the corpus; line 5: needs two references and a number of votes)" in notice
    )
    assert "\n" not in notice


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["Gen.1.1\tHeb.11.3\t9"], "from\tto\tvotes", r"links.txt, line 1: not the header .* needed.*From Verse"),
        ([], HEADER, r"links.txt: no usable cross-reference; needed: rows such as"),
        (["Gen.1.1\tHeb.11.3\t0"], HEADER, r"no usable cross-reference.*at least 1 vote"),
        (["Gen.2.2\tHeb.11.3\t9"], HEADER, r"skipped 1 rows \(line 2: Gen.2.2 or Heb.11.3 .*\): no usable"),
    ],
)
def test_a_file_without_usable_rows_is_refused_in_one_line(read, lines, header, message):
    with pytest.raises(UserError, match=message) as error:
        read(*lines, header=header)
    assert "\n" not in str(error.value)
