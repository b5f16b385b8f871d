"""What the readers share: the rows of one file, what was wrong with it, and what a reader hands back."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from genesis_ds.corpus.cleaning import CLEANER_VERSION, clean_text
from genesis_ds.corpus.references import MOST_DIGITS, parse_book, verse_id
from genesis_ds.corpus.verses import Flag, Source, Translation
from genesis_ds.errors import UserError, named_by_user, require_file

COPYRIGHT_NOTICE = (
    "imported texts may be copyrighted: a model trained on them for many epochs can reproduce them; check their "
    "licence before you share the corpus or the model"
)
LICENCE = "supplied by the user"
_EXAMPLES = 3
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
"""What no text holds, but tabs and the ends of lines."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHAPTER = re.compile(rf"[0-9]{{1,{MOST_DIGITS}}}")
_VERSES = re.compile(rf"({_CHAPTER.pattern})(?:\s*[-\u2013\u2014]\s*({_CHAPTER.pattern}))?")


@dataclass
class Imported:
    """The translations of an import with their sources, and notices on what was skipped."""

    translations: list[Translation] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, translation: Translation, path: Path) -> None:
        """Take in a translation that was read from the file `path`."""
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        name, language = translation.name, translation.language
        self.translations.append(translation)
        self.sources.append(Source(name, language, LICENCE, sha256, cleaner_version=CLEANER_VERSION))


class FileRows:
    """Collects the rows of one file, line by line, for any number of (language, name) translations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], dict[int, tuple[str, int]]] = {}
        self.lines = 0
        self.malformed: list[tuple[int, str]] = []

    def add(self, line: int, key: tuple[str, str], verses: range, text: str, *, flags: int = 0) -> None:
        """Clean and keep the text of one or several ids of the translation `key`.

        The first id holds the text, the others are merged with it. A second row for the same id is malformed, and so
        is a text with half a character, which no file in UTF-8 can hold.
        """
        rows = self.rows.setdefault(key, {})
        if not rows.keys().isdisjoint(verses):
            self.reject(line, "repeats a reference")
        elif is_broken(text):
            self.reject(line, "the text holds half a character (a lone surrogate)")
        elif found := _CONTROL.search(text):
            self.reject(line, f"the text holds the control character U+{ord(found[0]):04X}")
        else:
            self.lines += 1
            cleaned = clean_text(text)
            rows[verses[0]] = (cleaned, flags)
            rows.update((verse, ("", Flag.MERGED if cleaned else 0)) for verse in verses[1:])

    def reject(self, line: int, reason: str) -> None:
        """Count a malformed line. The reason must not quote the verse's text."""
        self.lines += 1
        self.malformed.append((line, reason))

    def finish(self, imported: Imported) -> None:
        """Add the translations and a notice to `imported`. Raises UserError if over half the lines are malformed."""
        if self.malformed:
            first = "; ".join(f"line {line}: {reason}" for line, reason in self.malformed[:_EXAMPLES])
            count = f"{self.path}: {len(self.malformed)} of {self.lines} lines are malformed ({first})"
            if 2 * len(self.malformed) > self.lines:
                raise UserError(f"{count}: mend the file")
            imported.notices.append(f"{count}; they were skipped")
        for (language, name), rows in self.rows.items():
            imported.add(Translation.from_rows(name, language, rows), self.path)


def read_text(path: Path) -> str:
    """Return the file's text, without a byte-order mark, its line ends written as \\n.

    A carriage return alone is left as it is, white space within a line, unless there are more of these than of line
    feeds: old Macintoshes ended lines so. Raises UserError when the file is not UTF-8 or cannot be read.
    """
    require_file(path)
    try:
        with named_by_user(path):
            text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it, for instance with iconv") from error
    text = text.replace("\r\n", "\n")
    return text.replace("\r", "\n") if text.count("\r") > text.count("\n") else text


def identify(book: str, chapter: str, verse: str) -> range:
    """Return the ids of a row's reference: book a number, code or English name; verse a number or a range such as 3-4.

    A blank verse is 0, the whole chapter. Raises UserError without quoting what it was given, which may be a text in
    the wrong column.
    """
    verses = _VERSES.fullmatch(verse or "0")
    if verses is None or not _CHAPTER.fullmatch(chapter):
        raise UserError("chapter or verse is no number")
    try:
        number = int(book) if re.fullmatch("[0-9]{1,2}", book) else parse_book(book)
    except UserError:
        raise UserError("unknown book: give its number, its USFM code or its English name") from None
    first = verse_id(number, int(chapter), int(verses[1]))
    last = verse_id(number, int(chapter), int(verses[2] or verses[1]))
    if last < first or (last > first and not first % 1000):
        raise UserError("a range of verses runs from one verse to a later one")
    return range(first, last + 1)


def is_broken(text: str) -> bool:
    """Return whether a text holds a lone surrogate, as JSON can spell it."""
    return _SURROGATE.search(text) is not None


def safe_name(text: str) -> str:
    """Return a translation's name made of `text`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "translation"


def require_language(path: Path, language: str | None) -> str:
    """Return the language given for a file that does not say its own. Raises UserError when none was given."""
    if language is None:
        raise UserError(f"{path} does not say its language: give it, as in --language en")
    return language
