"""Tables with a verse per row: TSV (no quoting), CSV and JSON lines.

Columns: ``book`` (number, code or English name), ``chapter``, ``verse`` (a number, a range such as 3-4; 0 or blank:
the whole chapter), ``text``, and optionally ``language`` and ``translation``. A missing text is blank, null or the
NaN of pandas.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genesis_ds.corpus.json_text import load_json
from genesis_ds.corpus.readers.intake import FileRows, Imported, identify, read_text, require_language, safe_name
from genesis_ds.corpus.verses import check_language
from genesis_ds.errors import UserError

SUFFIXES = (".tsv", ".csv", ".jsonl")
REQUIRED = ("book", "chapter", "verse", "text")
_MAX_CELL = 1 << 24
_NO_TEXT = frozenset({"", "nan", "NaN", "<NA>"})
"""How pandas writes a text that is not there."""

Record = dict[str, Any] | str
"""The cells of a row by column, or why it is malformed."""


def read(path: Path, language: str | None, name: str | None) -> Imported:
    """Read every translation of the table. `language` and `name` serve rows that do not say theirs."""
    rows = FileRows(path)
    for number, record in _records(path):
        if isinstance(record, str):
            rows.reject(number, record)
            continue
        row_language = _cell(record, "language") or language or ""
        if not row_language and "language" in record:
            rows.reject(number, "does not say its language")
            continue
        row_language = row_language or require_language(path, language)
        default_name = name or (f"{row_language}-{path.stem}" if "language" in record else path.stem)
        key = (row_language, safe_name(_cell(record, "translation") or default_name))
        try:
            check_language(row_language)
        except UserError:  # which quotes it, and it may be a text in the wrong column
            rows.reject(number, "its language is no BCP-47 tag")
            continue
        try:
            rows.add(number, key, _verses(record), _text(record))
        except UserError as error:
            rows.reject(number, str(error))
    imported = Imported()
    rows.finish(imported)
    return imported


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield (line, record) of each row; of a row over several lines the first counts."""
    lines = read_text(path).split("\n")
    if path.suffix.lower() == ".jsonl":
        yield from _json_records(lines)
        return
    lines = [line.replace("\r", " ") for line in lines]
    header = _header(path, lines[0])
    for number, cells in _tsv_rows(lines) if path.suffix.lower() == ".tsv" else _csv_rows(lines, header):
        if isinstance(cells, str):
            yield number, cells
        elif len(cells) != len(header):
            yield number, f"{len(cells)} cells, the header has {len(header)}"
        else:
            yield number, dict(zip(header, cells, strict=True))


def _header(path: Path, line: str) -> list[str]:
    csv.field_size_limit(_MAX_CELL)
    try:
        cells = line.split("\t") if path.suffix.lower() == ".tsv" else next(csv.reader([line]), [])
    except csv.Error:
        cells = []
    names = [cell.strip() for cell in cells]
    if absent := [column for column in REQUIRED if column not in names]:
        raise UserError(f"{path}, line 1: no column {', '.join(absent)}; needed: {', '.join(REQUIRED)}")
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise UserError(f"{path}, line 1: column {', '.join(twice)} stands twice; give each a name of its own")
    return names


def _tsv_rows(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            yield number, line.split("\t")


def _csv_rows(lines: list[str], header: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the rows under the header. A quote that is open still where another row begins costs its own row alone."""
    index = 1
    while index < len(lines):
        cells, taken = _csv_row(lines, index, header)
        if isinstance(cells, str) or any(map(str.strip, cells)):
            yield index + 1, cells
        index += taken


def _csv_row(lines: list[str], index: int, header: list[str]) -> tuple[list[str] | str, int]:
    """Return the row that begins at lines[index], or why it is malformed, and the number of lines that it takes."""
    taken = 0

    def following() -> Iterator[str]:
        nonlocal taken
        for i in range(index, len(lines)):
            if taken and _begins_a_row(lines[i], header):
                return
            taken += 1
            yield lines[i] + "\n"

    try:
        return next(csv.reader(following(), strict=True)), taken
    except csv.Error:
        return "a quote that is not closed, or text after a closed one", 1


def _begins_a_row(line: str, header: list[str]) -> bool:
    """Return whether a line within a quoted cell is a row itself."""
    try:
        _verses(dict(zip(header, next(csv.reader([line]), []), strict=False)))
    except (UserError, csv.Error):
        return False
    return True


def _json_records(lines: list[str]) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = load_json(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            yield number, "is no JSON object, or one with a key that stands twice or a number that is too long"
        elif absent := [column for column in REQUIRED if column not in record]:
            yield number, f"no key {', '.join(absent)}; needed: {', '.join(REQUIRED)}"
        else:
            yield number, record


def _verses(record: dict[str, Any]) -> range:
    return identify(_cell(record, "book"), _cell(record, "chapter"), _cell(record, "verse"))


def _cell(record: dict[str, Any], column: str) -> str:
    """Return a cell as text: blank for null and NaN, whole numbers without the decimal point that pandas gives them."""
    value = record.get(column)
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        value = None if math.isnan(value) else int(value)
    return "" if value is None else str(value).strip()


def _text(record: dict[str, Any]) -> str:
    value = record["text"]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise UserError("its text is no string")
    return "" if value.strip() in _NO_TEXT else value
