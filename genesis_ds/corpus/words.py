"""Patterns that find words in a text."""

import re
from collections.abc import Sequence


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the words, whole and in any case; the longest where several begin alike.

    Inflection: a word stands for itself alone, one that ends in * for all that begin like it (creat* for created and
    creature). A phrase is words with spaces between them, each as above.
    """
    whole = "|".join(_expression(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{whole})(?!\w)", re.IGNORECASE)


def _expression(phrase: str) -> str:
    return r"\s+".join(re.escape(word.removesuffix("*")) + r"\w*" * word.endswith("*") for word in phrase.split())
