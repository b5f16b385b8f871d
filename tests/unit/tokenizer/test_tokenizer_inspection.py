"""The printed description says what the ids say."""

from genesis_ds.tokenizer import Tokenizer, load_tokenizer
from genesis_ds.tokenizer.inspection import describe


def test_bytes_by_hand() -> None:
    text = describe(load_tokenizer("bytes"), {"en": ["abcd", "ef"], "none": []}, ["a\u00e9"])
    lines = text.splitlines()
    assert lines[0].split() == ["kind", "bytes"]
    assert lines[1].split() == ["vocabulary", "260"]
    assert ["en", "2", "6", "1.00", "3.0", "100.00%"] in [line.split() for line in lines]
    assert ["none", "0", "0", "-", "-", "-"] in [line.split() for line in lines]
    assert lines[-1] == "  <0x61> | <0xC3> | <0xA9>"


def test_a_row_counts_tokens_and_byte_pieces(tokenizer: Tokenizer) -> None:
    row = describe(tokenizer, {"xx": ["the boat\u2603"]}).splitlines()[-1].split()
    tokens = len(tokenizer.encode("the boat\u2603"))
    share = 1 if tokenizer.kind == "bytes" else 3 / tokens
    assert row == ["xx", "1", str(tokens), f"{11 / tokens:.2f}", f"{tokens:.1f}", f"{share:.2%}"]
    assert tokenizer.fingerprint in describe(tokenizer, {})
