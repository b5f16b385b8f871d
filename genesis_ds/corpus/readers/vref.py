"""eBible's aligned files: ``vref.txt`` names the verse of each line, ``<language>-<name>.txt`` holds its text.

A blank line is a missing verse, ``<range>`` a verse whose text stands in the line before. References outside the
66 books and their King James chapters are left out. Where vref.txt is numbered as the original languages are, as
eBible's is, its verses get their English numbers (see `versification`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genesis_ds.corpus.readers.intake import FileRows, Imported, read_text, safe_name
from genesis_ds.corpus.references import format_reference, parse_numbers, split_id, verse_id
from genesis_ds.corpus.verses import Flag, check_language
from genesis_ds.corpus.versification import DIVIDED, ENGLISH_OF, ORIGINAL_ONLY, TITLED, Numbering, recognise
from genesis_ds.errors import UserError

INDEX = "vref.txt"
MERGED_LINE = "<range>"
_EXAMPLES = 4

_SHORT_TAGS = {
    "arb": "ar", "ara": "ar", "cmn": "zh", "deu": "de", "eng": "en", "fra": "fr", "hin": "hi", "ind": "id",
    "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pes": "fa", "pol": "pl", "por": "pt", "rus": "ru",
    "spa": "es", "swh": "sw", "tgl": "tl", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


@dataclass
class _Index:
    """The content of vref.txt."""

    lines: int
    """Number of lines."""
    verses: dict[int, list[int]] = field(default_factory=dict)
    """Verse id -> its lines, from 0."""
    divided: list[int] = field(default_factory=list)
    """Ids whose text is part of the verse before."""
    repeated: list[int] = field(default_factory=list)
    """Lines that repeat a reference."""


def read(index_path: Path, files: list[Path], language: str | None) -> Imported:
    """Read the aligned `files`. One whose number of lines differs from vref.txt's is skipped with a notice.

    The language is the file name's part before the first ``-`` (BCP-47: ``eng`` becomes ``en``); a name without
    one needs `language`.
    """
    imported = Imported()
    index = _read_index(index_path, imported)
    for path in files:
        lines = _lines(path)
        if len(lines) != index.lines:
            imported.notices.append(
                f"{path} has {len(lines)} lines and {index_path.name} {index.lines}: it is not aligned and was skipped"
            )
            continue
        rows = FileRows(path)
        _add_rows(rows, (_language(path, language), safe_name(path.stem)), lines, index)
        rows.finish(imported)
    return imported


def _add_rows(rows: FileRows, key: tuple[str, str], lines: list[str], index: _Index) -> None:
    """Add the verses of one file; where several lines make a verse, their texts are joined."""
    has_text: set[int] = set()
    for verse, numbers in index.verses.items():
        parts = [lines[number].strip() for number in numbers]
        text = " ".join(part for part in parts if part and part != MERGED_LINE)
        flags = Flag.TITLE if len(parts) > 1 and parts[0] and verse in TITLED else 0
        if not text and MERGED_LINE in parts:
            flags = Flag.MERGED if has_text else 0
        if text or flags:
            has_text.add(verse)
        rows.add(numbers[0] + 1, key, range(verse, verse + 1), text, flags=flags)
    for verse in index.divided:
        flags = Flag.MERGED if DIVIDED[verse] in has_text else 0
        rows.add(index.verses[DIVIDED[verse]][0] + 1, key, range(verse, verse + 1), "", flags=flags)
    for number in index.repeated:
        rows.reject(number + 1, f"{INDEX} repeats a reference")


def _lines(path: Path) -> list[str]:
    return read_text(path).removesuffix("\n").split("\n")


def _read_index(path: Path, imported: Imported) -> _Index:
    lines = _lines(path)
    index = _Index(len(lines))
    numbers: dict[int, int] = {}
    outside: list[tuple[int, str]] = []
    for line, text in enumerate(lines):
        try:
            book, chapter, verse = parse_numbers(text)
        except UserError as error:
            outside.append((line, str(error)))
            continue
        if numbers.setdefault(book * 1_000_000 + chapter * 1000 + verse, line) != line:
            index.repeated.append(line)
    numbering = recognise(numbers)
    outside += _resolve(numbers, numbering, index)
    if outside:
        line, reason = min(outside)
        count = f"{path}: {len(outside)} of {len(lines)} references are outside the 66 books"
        if 2 * len(outside) > len(lines):
            raise UserError(f"{count}; line {line + 1}: {reason}")
        imported.notices.append(f"{count} (first: line {line + 1}); they were left out")
    if notice := _notice(numbers, numbering, index):
        imported.notices.append(f"{path} {notice}")
    return index


def _resolve(numbers: dict[int, int], numbering: Numbering, index: _Index) -> list[tuple[int, str]]:
    """Fill in the verses of `index` from {number: line}; return (line, reason) of those that no verse has."""
    outside: list[tuple[int, str]] = []
    for number, line in sorted(numbers.items(), key=lambda item: item[0] in numbering.foreign):  # foreign ones last
        english = ENGLISH_OF.get(number, number) if numbering.original else number
        try:
            book, chapter, number_in_chapter = split_id(english)
            verse = verse_id(book, chapter, number_in_chapter)
        except UserError as error:
            outside.append((line, str(error)))
            continue
        if number in numbering.foreign and verse in index.verses:
            index.repeated.append(line)
        else:
            index.verses.setdefault(verse, []).append(line)
    if numbering.original:
        index.divided = [v for v, whole in DIVIDED.items() if whole in index.verses and v not in index.verses]
    return outside


def _notice(numbers: dict[int, int], numbering: Numbering, index: _Index) -> str:
    """Return what the user should know of the numbering; "" where there is nothing to tell."""
    foreign = _listed(numbering.foreign)
    if not numbering.original:
        if not numbering.certain:
            return "may be numbered as in English Bibles or as in the original languages: it was read as the former"
        return f"is numbered as in English Bibles except for {foreign}: kept as they stand" if foreign else ""
    moved = [number for number in numbers if number in ENGLISH_OF]
    example = next(number for number in numbers if number in ORIGINAL_ONLY)
    parts = [
        f"is numbered as in the original languages: {len(moved)} verses were given their English numbers "
        f"({format_reference(example)} is {format_reference(ENGLISH_OF[example])}), titles of psalms begin verse 1"
    ]
    if index.divided:
        parts.append(f"{_listed(index.divided)} count as merged with the verse before")
    if foreign:
        parts.append(f"{foreign} are of the English numbering: kept as they stand, or rejected where another verse is")
    return "; ".join(parts)


def _listed(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _EXAMPLES} more" if len(numbers) > _EXAMPLES else ""
    return ", ".join(map(format_reference, numbers[:_EXAMPLES])) + more


def _language(path: Path, language: str | None) -> str:
    prefix, dash, _ = path.stem.partition("-")
    if not dash:
        if language is None:
            raise UserError(f"{path} does not say its language: name it <language>-<name>.txt or give --language")
        return language
    tag = _SHORT_TAGS.get(prefix.lower(), prefix)
    check_language(tag)
    return tag
