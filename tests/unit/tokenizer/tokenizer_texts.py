"""The texts every tokenizer must give back, and invented ones to train on."""

from collections.abc import Iterator

from hypothesis import strategies as st

HARD = (
    " ", "  ", "\n", "\r\n", "\t", "\x00", "\u2581", "\u2581 \u2581", "\u2585", "\u2047", "\ufffd", "\ufeff", "<s>",
    "</s>", "<pad>", "<unk>", "<0x0A>", "e\u0301", "\u00e9", "\u1112\u1161\u11ab", "\u200d", "\u200c", "\u00ad",
    "\U0001f469\u200d\U0001f467", "\U0001f1f0\U0001f1f7", "\U0010ffff", "\ufb01", "12.5",
)  # fmt: skip
ANY_TEXT = st.lists(st.one_of(st.sampled_from(HARD), st.text(max_size=8), st.just("the boat ")), max_size=8).map(
    "".join
)


def invented(n: int) -> Iterator[str]:
    """`n` lines in two scripts, with spellings of specials among them."""
    for i in range(n):
        yield f"the boat {i} sailed to the harbour of number {i % 7}, and the sailors sang <s> \u2581 {'la' * (i % 5)}"
        yield f"배가 {i} 항구로 갔다, 그리고 노래했다 <0x0A>"
