"""What is done to every verse text before it enters the table."""

import re
import unicodedata
from collections.abc import Sequence

CLEANER_VERSION = 1
"""Raise it whenever `clean_text` or a repair changes what comes out: it is stored with each source."""

Repair = tuple[str, str]
"""A regular expression and its replacement, for a defect of one source (see `translations`)."""

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_CONTROLS = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(" {2,}")
_PLACEHOLDERS = frozenset({"(없음)", "없음", "(missing)", "(omitted)"})


def clean_text(text: str, repairs: Sequence[Repair] = ()) -> str:
    """One line of NFC text without invisible marks; "" where nothing but a placeholder stands.

    Order: control characters (tabs, newlines) become a space; the `repairs` of the source apply; soft hyphens,
    byte-order and direction marks and lone surrogates go, while the joiners U+200C and U+200D stay, since they
    spell words in Persian and Hindi; runs of spaces collapse. A text without a letter or a digit (``-``, ``(*)``)
    or made of a known placeholder is blank. NFC and never NFKC, which would rewrite letters and digits.
    """
    text = _CONTROLS.sub(" ", _SURROGATES.sub("", text)).strip()
    for pattern, replacement in repairs:
        text = re.sub(pattern, replacement, text)
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", _INVISIBLE.sub("", text))).strip()
    if text.lower() in _PLACEHOLDERS or not any(character.isalnum() for character in text):
        return ""
    return text
