"""The numbers that a verse of the original-language Bibles has in English ones (King James).

Hebrew Bibles end some chapters elsewhere, count a psalm's title as its first verse or two, and divide a few verses
otherwise; so do the usual editions of the Greek New Testament. eBible's vref.txt is numbered in that way. With the
tables below its 31,170 verses of the 66 books become the 31,102 of the King James Version. A number here is
``book * 1_000_000 + chapter * 1000 + verse`` as in `references`, but unchecked, since JOL 4 exists only there.

Not told apart is where half a verse belongs to another without any number being different (1KI 18:33-34).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genesis_ds.corpus.references import USFM_CODES

_MOVED = """
GEN 32:1 = 31:55; GEN 32:2-33 = 32:1-32; EXO 7:26-29 = 8:1-4; EXO 8:1-28 = 8:5-32; EXO 21:37 = 22:1
EXO 22:1-30 = 22:2-31; LEV 5:20-26 = 6:1-7; LEV 6:1-23 = 6:8-30; NUM 17:1-15 = 16:36-50; NUM 17:16-28 = 17:1-13
NUM 30:1 = 29:40; NUM 30:2-17 = 30:1-16; DEU 13:1 = 12:32; DEU 13:2-19 = 13:1-18; DEU 23:1 = 22:30
DEU 23:2-26 = 23:1-25; DEU 28:69 = 29:1; DEU 29:1-28 = 29:2-29; 1SA 21:2-16 = 21:1-15; 1SA 24:1 = 23:29
1SA 24:2-23 = 24:1-22; 2SA 19:1 = 18:33; 2SA 19:2-44 = 19:1-43; 1KI 5:1-14 = 4:21-34; 1KI 5:15-32 = 5:1-18
1KI 22:45-54 = 22:44-53; 2KI 12:1 = 11:21; 2KI 12:2-22 = 12:1-21; 1CH 5:27-41 = 6:1-15; 1CH 6:1-66 = 6:16-81
1CH 12:6-41 = 12:5-40; 2CH 1:18 = 2:1; 2CH 2:1-17 = 2:2-18; 2CH 13:23 = 14:1; 2CH 14:1-14 = 14:2-15
NEH 3:33-38 = 4:1-6; NEH 4:1-17 = 4:7-23; NEH 7:68-72 = 7:69-73; NEH 10:1 = 9:38; NEH 10:2-40 = 10:1-39
JOB 40:25-32 = 41:1-8; JOB 41:1-26 = 41:9-34; ECC 4:17 = 5:1; ECC 5:1-19 = 5:2-20; SNG 7:1 = 6:13
SNG 7:2-14 = 7:1-13; ISA 8:23 = 9:1; ISA 9:1-20 = 9:2-21; ISA 64:1-11 = 64:2-12; JER 8:23 = 9:1
JER 9:1-25 = 9:2-26; EZK 21:1-5 = 20:45-49; EZK 21:6-37 = 21:1-32; DAN 3:31-33 = 4:1-3; DAN 4:1-34 = 4:4-37
DAN 6:1 = 5:31; DAN 6:2-29 = 6:1-28; HOS 2:1-2 = 1:10-11; HOS 2:3-25 = 2:1-23; HOS 12:1 = 11:12
HOS 12:2-15 = 12:1-14; HOS 14:1 = 13:16; HOS 14:2-10 = 14:1-9; JOL 3:1-5 = 2:28-32; JOL 4:1-21 = 3:1-21
JON 2:1 = 1:17; JON 2:2-11 = 2:1-10; MIC 4:14 = 5:1; MIC 5:1-14 = 5:2-15; NAM 2:1 = 1:15; NAM 2:2-14 = 2:1-13
ZEC 2:1-4 = 1:18-21; ZEC 2:5-17 = 2:1-13; MAL 3:19-24 = 4:1-6; 2CO 13:13 = 13:14
"""
"""Original = English: one verse each."""

_JOINED = """
NUM 25:19 = 26:1; 1SA 21:1 = 20:42; 1KI 22:44 = 22:43; 1CH 12:5 = 12:4; 3JN 1:15 = 1:14; REV 12:18 = 13:1
"""
"""Original = English: the English verse holds the original one of its own number besides."""

_DIVIDED = "PSA 13:6 = 13:5; ISA 64:1 = 63:19; ACT 19:41 = 19:40; 2CO 13:13 = 13:12"
"""English = English: the original verse that becomes the second holds the text of the first besides."""

_ENGLISH_ALONE = "NEH 7:68"
"""In no usual edition of the Hebrew text."""

_VERSES_OF_TITLED_PSALMS = """
3:8 4:8 5:12 6:10 7:17 8:9 9:20 12:8 13:5 18:50 19:14 20:9 21:13 22:31 30:12 31:24 34:22 36:12 38:22 39:13 40:17 41:13
42:11 44:26 45:17 46:11 47:9 48:14 49:20 51:19 52:9 53:6 54:7 55:23 56:13 57:11 58:11 59:17 60:12 61:8 62:12 63:11
64:10 65:13 67:7 68:35 69:36 70:5 75:10 76:12 77:20 80:19 81:16 83:18 84:12 85:13 88:18 89:52 92:15 102:28 108:13
140:13 142:7
"""
"""Psalm and number of its last English verse, where the title has a number of its own in Hebrew."""
_PSALMS_WITH_A_TITLE_OF_TWO_VERSES = frozenset({51, 52, 54, 60})
_PSALM = 19_000_000

_RULE = re.compile(r"(\w{3}) (\d+):(\d+)(?:-(\d+))?(?: = (\d+):(\d+)(?:-(\d+))?)?")


def _rules(text: str) -> Iterator[tuple[int, int]]:
    """Yield (left, right) of each verse in the rules; (verse, verse) where there is no right side."""
    for book, chapter, first, last, other_chapter, other_first, _ in _RULE.findall(text):
        base = (USFM_CODES.index(book) + 1) * 1_000_000
        for offset in range(int(last or first) - int(first) + 1):
            left = base + int(chapter) * 1000 + int(first) + offset
            yield left, base + int(other_chapter) * 1000 + int(other_first) + offset if other_chapter else left


def _psalms() -> Iterator[tuple[int, int]]:
    """Yield (original, English) of each numbered verse after a title, the last verses of titles among them."""
    for psalm, last in (map(int, entry.split(":")) for entry in _VERSES_OF_TITLED_PSALMS.split()):
        title = 2 if psalm in _PSALMS_WITH_A_TITLE_OF_TWO_VERSES else 1
        for verse in range(2, last + title + 1):
            yield _PSALM + psalm * 1000 + verse, _PSALM + psalm * 1000 + max(verse - title, 1)


ENGLISH_OF: dict[int, int] = {**dict(_rules(_MOVED)), **dict(_rules(_JOINED)), **dict(_psalms())}
"""Original number -> English number, where they differ. Several of the first may become one of the second."""
DIVIDED: dict[int, int] = dict(_rules(_DIVIDED))
"""English number without an original of its own -> the English number before it, whose text holds its own."""
TITLED: frozenset[int] = frozenset(english for _, english in _psalms() if english % 1000 == 1)
"""English numbers of verses that begin with a title which has a number of its own in the original."""

_JOINED_WITH = frozenset(dict(_rules(_JOINED)).values()) | TITLED
_ENGLISH = {*ENGLISH_OF.values(), *DIVIDED, *(verse for verse, _ in _rules(_ENGLISH_ALONE))}
ORIGINAL_ONLY: frozenset[int] = frozenset(ENGLISH_OF) - _ENGLISH
"""Numbers that only the original numbering has."""
ENGLISH_ONLY: frozenset[int] = frozenset(_ENGLISH - ENGLISH_OF.keys() - _JOINED_WITH)
"""Numbers that only the English numbering has."""


@dataclass(frozen=True)
class Numbering:
    """How a set of references is numbered: as in the original languages, or as in English Bibles.

    foreign: those that exist in the other numbering alone, ascending. certain: False where nothing tells the two
    apart although they differ in some of the references.
    """

    original: bool
    foreign: tuple[int, ...]
    certain: bool


def recognise(numbers: Iterable[int]) -> Numbering:
    """Return the numbering to which more of the telling `numbers` belong; English where none tells."""
    numbers = set(numbers)
    original, english = numbers & ORIGINAL_ONLY, numbers & ENGLISH_ONLY
    is_original = len(original) > len(english)
    certain = bool(original or english) or not numbers & ENGLISH_OF.keys()
    return Numbering(is_original, tuple(sorted(english if is_original else original)), certain)
