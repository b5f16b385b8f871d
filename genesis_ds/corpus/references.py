"""Verse references: one integer per verse, printed as USFM codes.

``verse_id = book * 1_000_000 + chapter * 1000 + verse`` with books 1-66 in the Protestant order and King James
chapter numbering. Verse 0 names the whole chapter (a chapter row).
"""

import functools
import re

from genesis_ds.errors import UserError, nearest

MAX_VERSE = 176
"""Verses of the longest chapter, Psalm 119."""

MOST_DIGITS = 3
"""Digits of the greatest number of a chapter or a verse."""

_BOOK_TABLE = """
GEN 50 Genesis; Gen; Ge; Gn
EXO 40 Exodus; Exod; Ex
LEV 27 Leviticus; Lev; Lv
NUM 36 Numbers; Num; Nm; Nu
DEU 34 Deuteronomy; Deut; Dt
JOS 24 Joshua; Josh
JDG 21 Judges; Judg; Jdgs
RUT 4 Ruth; Ru
1SA 31 1 Samuel; 1 Sam; 1 Sm
2SA 24 2 Samuel; 2 Sam; 2 Sm
1KI 22 1 Kings; 1 Kgs; 1 Kin
2KI 25 2 Kings; 2 Kgs; 2 Kin
1CH 29 1 Chronicles; 1 Chron; 1 Chr
2CH 36 2 Chronicles; 2 Chron; 2 Chr
EZR 10 Ezra; Ezr
NEH 13 Nehemiah; Neh
EST 10 Esther; Esth
JOB 42 Job
PSA 150 Psalms; Psalm; Pss; Ps
PRO 31 Proverbs; Prov; Prv
ECC 12 Ecclesiastes; Eccles; Eccl; Qoheleth
SNG 8 Song of Solomon; Song of Songs; Song; Canticles; SOS; Cant
ISA 66 Isaiah; Isa
JER 52 Jeremiah; Jer
LAM 5 Lamentations; Lam
EZK 48 Ezekiel; Ezek; Eze
DAN 12 Daniel; Dan; Dn
HOS 14 Hosea; Hos
JOL 3 Joel; Joe
AMO 9 Amos; Am
OBA 1 Obadiah; Obad
JON 4 Jonah; Jnh
MIC 7 Micah; Mic
NAM 3 Nahum; Nah
HAB 3 Habakkuk; Hab
ZEP 3 Zephaniah; Zeph
HAG 2 Haggai; Hag
ZEC 14 Zechariah; Zech
MAL 4 Malachi; Mal
MAT 28 Matthew; Matt; Mt
MRK 16 Mark; Mar; Mk
LUK 24 Luke; Lk
JHN 21 John; Joh; Jn
ACT 28 Acts; Acts of the Apostles
ROM 16 Romans; Rom; Rm
1CO 16 1 Corinthians; 1 Cor
2CO 13 2 Corinthians; 2 Cor
GAL 6 Galatians; Gal
EPH 6 Ephesians; Eph
PHP 4 Philippians; Phil; Php
COL 4 Colossians; Col
1TH 5 1 Thessalonians; 1 Thess; 1 Thes
2TH 3 2 Thessalonians; 2 Thess; 2 Thes
1TI 6 1 Timothy; 1 Tim
2TI 4 2 Timothy; 2 Tim
TIT 3 Titus; Tit
PHM 1 Philemon; Philem; Phlm
HEB 13 Hebrews; Heb
JAS 5 James; Jas; Jam
1PE 5 1 Peter; 1 Pet
2PE 3 2 Peter; 2 Pet
1JN 5 1 John; 1 Jn; 1 Joh
2JN 1 2 John; 2 Jn; 2 Joh
3JN 1 3 John; 3 Jn; 3 Joh
JUD 1 Jude; Jud
REV 22 Revelation; Revelation of John; Apocalypse; Rev; Rv
"""
_ROWS = [line.split(maxsplit=2) for line in _BOOK_TABLE.strip().splitlines()]

USFM_CODES: tuple[str, ...] = tuple(row[0] for row in _ROWS)
"""The 66 book codes in canonical order; book number b has code USFM_CODES[b - 1]."""

CHAPTERS: tuple[int, ...] = tuple(int(row[1]) for row in _ROWS)
"""Number of chapters per book in canonical order; they sum to 1,189."""

_PSALMS_OF_SOLOMON = "PSS"
"""A USFM code, not to be taken for the abbreviation Pss of Psalms: eBible's vref.txt has them."""
_ORDINALS = {"i": "1", "ii": "2", "iii": "3", "1st": "1", "2nd": "2", "3rd": "3"} | {
    "first": "1",
    "second": "2",
    "third": "3",
}
_REFERENCE = re.compile(r"\s*(?P<book>.*?[^\d\s.])[\s.]*(?P<chapter>\d+)(?:\s*[:.]\s*(?P<verse>\d+))?\s*")


def verse_id(book: int, chapter: int, verse: int) -> int:
    """Return the id of a verse (verse 0: of its chapter). Raises UserError outside the 66 books and their chapters."""
    if not 1 <= book <= len(CHAPTERS):
        raise UserError(f"book {book} does not exist: allowed are 1 to {len(CHAPTERS)}")
    code, chapters = USFM_CODES[book - 1], CHAPTERS[book - 1]
    if not 1 <= chapter <= chapters:
        raise UserError(f"{code} {chapter} does not exist: {code} has {chapters} chapters")
    if not 0 <= verse <= MAX_VERSE:
        raise UserError(f"{code} {chapter}:{verse} does not exist: no chapter has more than {MAX_VERSE} verses")
    return book * 1_000_000 + chapter * 1000 + verse


def split_id(identifier: int) -> tuple[int, int, int]:
    """Return (book, chapter, verse) of an id; the inverse of `verse_id`."""
    return identifier // 1_000_000, identifier // 1000 % 1000, identifier % 1000


def chapter_ids() -> list[int]:
    """Return the 1,189 chapter ids (verse 0) in canonical order."""
    return [verse_id(b, c, 0) for b, chapters in enumerate(CHAPTERS, 1) for c in range(1, chapters + 1)]


@functools.cache
def _book_numbers() -> dict[str, int]:
    names = {}
    for number, (code, _, aliases) in enumerate(_ROWS, 1):
        for alias in (code, *aliases.split(";")):
            names[alias.replace(" ", "").lower()] = number
    return names


def parse_book(name: str) -> int:
    """Return the book number 1-66 of a USFM code, an English name or a common abbreviation, in any case.

    ``I John``, ``1st John`` and ``First John`` are ``1 John``. Raises UserError with the nearest known name.
    """
    words = name.lower().replace(".", " ").split()
    if len(words) > 1:
        words[0] = _ORDINALS.get(words[0], words[0])
    number = None if name.strip() == _PSALMS_OF_SOLOMON else _book_numbers().get("".join(words))
    if number is None:
        raise UserError(f"unknown book '{name.strip()}': {_hint(''.join(words))}")
    return number


@functools.lru_cache
def _hint(name: str) -> str:
    """Return what may have been meant; cached, since a file may name one book ten thousand times."""
    return nearest(name, _book_numbers(), "give an English name or a USFM code, such as Genesis or GEN")


def parse_reference(text: str) -> int:
    """Return the id of ``Genesis 1:1``, ``GEN 1:1``, ``1 John 3:4``, ``Gen.1.1``, or of a chapter, ``John 3``.

    Raises UserError naming the text when it is no reference or the book or chapter does not exist.
    """
    book, chapter, verse = parse_numbers(text)
    return verse_id(book, chapter, verse)


def parse_numbers(text: str) -> tuple[int, int, int]:
    """Return (book, chapter, verse) of a reference in one of these spellings, in any numbering; verse 0: the chapter.

    Raises UserError naming the text when it is no reference or there is no such book.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise UserError(f"'{text.strip()}' is no reference: write a book, a chapter and a verse, as 'Genesis 1:1'")
    chapter, verse = match["chapter"], match["verse"] or "0"
    if max(len(chapter), len(verse)) > MOST_DIGITS:
        raise UserError(f"'{text.strip()}' does not exist: no book has a chapter or a verse of that number")
    return parse_book(match["book"]), int(chapter), int(verse)


def format_reference(identifier: int) -> str:
    """Format an id: ``JHN 3:16`` for a verse, ``JHN 3`` for a chapter (verse 0)."""
    book, chapter, verse = split_id(int(identifier))
    return f"{USFM_CODES[book - 1]} {chapter}" + (f":{verse}" if verse else "")
