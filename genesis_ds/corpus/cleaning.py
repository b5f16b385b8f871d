"""The cleaning of every verse text before it enters the table."""

import re
import unicodedata
from collections.abc import Sequence

CLEANER_VERSION = 2
"""Raise it whenever `clean_text` or a repair changes what comes out: it is stored with each source."""

Repair = tuple[str, str]
"""A regular expression and its replacement, for a defect of one source (see `translations`)."""

_INVISIBLE = re.compile("[\u00ad\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_CONTROLS = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(" {2,}")
_PLACEHOLDERS = frozenset({"(없음)", "없음", "(missing)", "(omitted)"})

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
)
"""Scripts written without spaces, in which U+200B tells where a word ends."""
_ZERO_WIDTH_SPACES = re.compile(
    rf"(?P<boundary>(?<=[{_UNSPACED}])\u200b+(?=[^\s\u200b])|(?<=[^\s\u200b])\u200b+(?=[{_UNSPACED}]))|\u200b+"
)
_FIRST_PICTURE = "\u2600"
"""Symbols from here on are emoji, Braille or SignWriting; before it are arrows, boxes, signs such as the degree's."""
_NO_TEXT = frozenset("\ufffc\ufffd")
"""Symbols that stand for what is lost."""


def clean_text(text: str, repairs: Sequence[Repair] = ()) -> str:
    """Return one line of NFC text without invisible marks; "" where nothing but a placeholder stands.

    Order: control characters (tabs, newlines) become a space; the `repairs` of the source apply; soft hyphens,
    byte-order and direction marks and lone surrogates go, while the joiners U+200C and U+200D stay, since they
    spell words in Persian and Hindi, and U+200B between letters of the scripts in which it ends a word (Khmer, Thai,
    Lao, Burmese); runs of spaces collapse. A text in which nothing is written (``-``, ``(*)``; see `_is_written`) or
    made of a known placeholder is blank. NFC and never NFKC, which would rewrite letters and digits.
    """
    text = _CONTROLS.sub(" ", _SURROGATES.sub("", text)).strip()
    for pattern, replacement in repairs:
        text = re.sub(pattern, replacement, text)
    text = _ZERO_WIDTH_SPACES.sub(lambda found: "\u200b" if found["boundary"] else "", _INVISIBLE.sub("", text))
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()
    return text if text.lower() not in _PLACEHOLDERS and any(map(_is_written, text)) else ""


def _is_written(character: str) -> bool:
    """Return whether a character is more than punctuation.

    It is a letter or a digit, also of private use or newer than this Python's Unicode, or a symbol that is written as
    a word is, such as SignWriting and emoji.
    """
    if character.isalnum():
        return True
    category = unicodedata.category(character)
    return category in ("Co", "Cn") or (category == "So" and character >= _FIRST_PICTURE and character not in _NO_TEXT)
