"""Patterns that find words in a text."""

import re
from collections.abc import Sequence

WORD = re.compile(
    r"[^\s!-/:-@\[-`{-~\u00a1-\u00bf\u05be\u05c0\u05c3\u060c\u061b\u061f\u06d4\u0964\u0965\u1361-\u1368\u17d4-\u17d6"
    r"\u2000-\u200b\u200e-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+"
)
"""Any word: what stands between spaces and punctuation. Where a script has no spaces it is a whole phrase."""


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the words, whole and in any case; the longest where several begin alike.

    Inflection: a word stands for itself alone, one that ends in * for all that begin like it (creat* for created and
    creature). A phrase is words with spaces between them, each as above.
    """
    whole = "|".join(_expression(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{whole})(?!\w)", re.IGNORECASE)


def _expression(phrase: str) -> str:
    return r"\s+".join(re.escape(word.removesuffix("*")) + r"\w*" * word.endswith("*") for word in phrase.split())
