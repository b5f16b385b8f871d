import pytest

from genesis_ds.inference.streaming import TextSoFar


def parts(pieces, stop=()):
    text = TextSoFar(stop)
    found = []
    for piece in pieces:
        found.append(text.add(piece))
        if text.is_stopped:
            break
    found.append(text.end())
    assert "".join(found) == text.text
    return found


def bytes_of(text):
    return [bytes([byte]) for byte in text.encode()]


def test_a_korean_letter_comes_when_its_last_byte_does():
    assert parts(bytes_of("태a초")) == ["", "", "태", "a", "", "", "초", ""]


def test_an_incomplete_letter_is_left_out():
    assert parts(bytes_of("태초")[:-1]) == ["", "", "태", "", "", ""]


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        ([b"ab", b"cd"], ["bc"], "a"),
        ([b"abc", b"d"], ["d", "bc"], "a"),
        ([b"a", b"b", b"x"], ["bc"], "abx"),
        ([b"a", b"b"], ["bc"], "ab"),
        ([b"aab", b"aabc"], ["aabc"], "aab"),
        (bytes_of("빛이 있으라"), ["있"], "빛이 "),
        ([b"x\n", b"\n", b"y"], ["\n\n"], "x"),
    ],
)
def test_a_text_ends_before_a_stop_string_which_is_never_shown(pieces, stop, expected):
    assert "".join(parts(pieces, stop)) == expected


def test_what_may_be_the_beginning_of_a_stop_string_is_held_back():
    assert parts([b"a", b"b", b"b", b"c"], ["bc"]) == ["a", "", "b", "", ""]
