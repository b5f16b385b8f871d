"""Directories of ``<locale>/bible_data.json``: a list of chapter records in canonical order, text in ``content``.

A complete translation has 1,189 records. One of 1,188 has lost a chapter, and everything after it is off by one.
Beside a complete translation the gap is found by the lengths of the chapters, which agree between languages; the
few chapters among which it cannot be placed are left out (measured on es, ko, ru and hi beside en, with each of the
1,189 removed in turn: the lost one is always among them, they are 4 to 5 on average and 15 at most).
Without one the last chapter is taken to be the lost one: the usual slip of a download, and translations that lost
the same chapter stay aligned with each other either way.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.cleaning import clean_text
from genesis_ds.corpus.json_text import load_json
from genesis_ds.corpus.readers.intake import Imported, is_broken, read_text
from genesis_ds.corpus.readers.verse_numbers import split_numbered
from genesis_ds.corpus.references import chapter_ids, format_reference, split_id
from genesis_ds.corpus.verses import Flag, Translation, check_language
from genesis_ds.errors import UserError

FILE_NAME = "bible_data.json"
_PSALMS = 19
_MAX_MISFIT = 0.3
_TIE = 0.5
_MAX_SPAN = 20
_EXAMPLES = 3


def find(directory: Path) -> list[Path]:
    """Return the bible_data.json files of a directory in this layout, by locale; empty for any other."""
    return sorted(directory.glob(f"*/{FILE_NAME}")) or [
        p for p in [Path(os.path.abspath(directory)) / FILE_NAME] if p.is_file()
    ]


def read(files: list[Path]) -> Imported:
    """Read each file as the translation named by its directory; what cannot be used is skipped with a notice."""
    imported = Imported()
    contents: dict[Path, list[str]] = {}
    for path in files:
        try:
            contents[path] = _read_contents(path, imported)
        except UserError as error:
            imported.notices.append(str(error))
    complete = next((texts for texts in contents.values() if len(texts) == len(chapter_ids())), None)
    for path, texts in contents.items():
        chapters = _chapters(path, texts, complete, imported)
        if chapters is not None:
            imported.add(_translation(path, chapters, imported), path)
    return imported


def _read_contents(path: Path, imported: Imported) -> list[str]:
    """Return the text of each record, "" (with a notice) where there is none. Raises UserError for a useless file."""
    try:
        check_language(_language(path))
        records = load_json(read_text(path))
    except UserError as error:
        raise UserError(f"{path} was skipped: {error}") from error
    except ValueError as error:
        raise UserError(f"{path} is broken JSON ({error}): it was skipped") from error
    expected = len(chapter_ids())
    if not isinstance(records, list) or len(records) not in (expected, expected - 1):
        found = f"{len(records)} records" if isinstance(records, list) else "no list"
        raise UserError(f"{path} is incomplete: {found} instead of {expected} chapters; it was skipped")
    contents = [_content(record) for record in records]
    if blank := [number for number, text in enumerate(contents, 1) if not text]:
        first = ", ".join(map(str, blank[:_EXAMPLES])) + (", ..." if len(blank) > _EXAMPLES else "")
        count = f"{path}: {len(blank)} of {len(records)} records have no text under 'content' (number {first})"
        if 2 * len(blank) > len(records):
            raise UserError(f"{count}; the file was skipped")
        imported.notices.append(f"{count}; their chapters were left out")
    return contents


def _content(record: object) -> str:
    text = record.get("content") if isinstance(record, dict) else None
    return text if isinstance(text, str) and not is_broken(text) and clean_text(text) else ""


def _language(path: Path) -> str:
    return path.parent.name.replace("_", "-")


def _chapters(path: Path, texts: list[str], complete: list[str] | None, imported: Imported) -> dict[int, str] | None:
    """Return {chapter id: text}, or None (with a notice) when the lost chapter cannot be placed."""
    ids = chapter_ids()
    if len(texts) == len(ids):
        return dict(zip(ids, texts, strict=True))
    if complete is None:
        imported.notices.append(
            f"{path} has {len(texts)} of {len(ids)} chapters and no complete translation to compare it with: "
            f"it is read as if {format_reference(ids[-1])} were the lost one"
        )
        return dict(zip(ids[:-1], texts, strict=True))
    gap = locate_gap(_log_lengths(texts), _log_lengths(complete))
    if gap is None:
        imported.notices.append(f"{path} has lost a chapter that cannot be placed: it was skipped")
        return None
    first, last = gap
    span = " to ".join(format_reference(ids[i]) for i in sorted({first, last}))
    imported.notices.append(f"{path} has lost a chapter: {span} left out")
    placed = dict(zip(ids[:first], texts[:first], strict=True))
    return placed | dict(zip(ids[last + 1 :], texts[last:], strict=True))


def _log_lengths(texts: list[str]) -> NDArray[np.float64]:
    return np.log([len(text) + 1 for text in texts])


def locate_gap(lengths: NDArray[np.float64], complete: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return the (first, last) index between which one entry of `complete` (N,) has no partner in `lengths` (N - 1,).

    Both are log lengths of chapters; each possible gap costs the sum of the absolute differences that it leaves.
    None when even the best gap fits badly or more than 20 chapters fit equally well.
    """
    lengths, complete = lengths - np.median(lengths), complete - np.median(complete)
    before = np.concatenate([[0], np.cumsum(np.abs(lengths - complete[:-1]))])
    after = np.concatenate([np.cumsum(np.abs(lengths - complete[1:])[::-1])[::-1], [0]])
    costs = before + after
    plausible = np.flatnonzero(costs <= costs.min() + _TIE)
    first, last = int(plausible[0]), int(plausible[-1])
    if costs.min() > _MAX_MISFIT * len(lengths) or last - first > _MAX_SPAN:
        return None
    return first, last


def _translation(path: Path, chapters: dict[int, str], imported: Imported) -> Translation:
    rows: dict[int, tuple[str, int]] = {}
    whole = 0
    chapters = {identifier: text for identifier, text in chapters.items() if text}
    for identifier, text in chapters.items():
        book, chapter, _ = split_id(identifier)
        verses = split_numbered(text, chapter)
        if verses is None:
            whole += 1
            rows[identifier] = (clean_text(text), 0)
            continue
        titled = book == _PSALMS and not text.lstrip()[:1].isdigit()
        for verse, verse_text in verses:
            rows[identifier + verse] = (clean_text(verse_text), Flag.TITLE if titled and verse == 1 else 0)
    if 0 < whole < len(chapters):
        imported.notices.append(
            f"{path}: {whole} of {len(chapters)} chapters have no complete verse numbers: kept whole"
        )
    return Translation.from_rows(path.parent.name, _language(path), rows)
