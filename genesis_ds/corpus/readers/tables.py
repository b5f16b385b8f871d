"""Tables with a verse per row: TSV (no quoting), CSV and JSON lines.

Columns: ``book`` (number, code or English name), ``chapter``, ``verse`` (0 or blank: the whole chapter), ``text``,
and optionally ``language`` and ``translation``.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genesis_ds.corpus.readers.intake import Batch, FileRows, identify, read_text, require_language, safe_name
from genesis_ds.corpus.verses import check_language
from genesis_ds.errors import UserError

SUFFIXES = (".tsv", ".csv", ".jsonl")
REQUIRED = ("book", "chapter", "verse", "text")
_MAX_CELL = 1 << 24


def read(path: Path, language: str | None, name: str | None) -> Batch:
    """Read every translation of the table. `language` and `name` serve rows that do not say theirs."""
    rows = FileRows(path)
    for number, cells in _records(path):
        if cells is None:
            rows.reject(number, "is no JSON object")
            continue
        row_language = _cell(cells, "language") or require_language(path, language)
        default_name = name or (f"{row_language}-{path.stem}" if "language" in cells else path.stem)
        key = (row_language, safe_name(_cell(cells, "translation") or default_name))
        try:
            check_language(row_language)
            identifier = identify(*(_cell(cells, column) for column in REQUIRED[:3]))
            rows.add(number, key, identifier, str(cells["text"] or ""))
        except UserError as error:
            rows.reject(number, str(error))
    batch = Batch()
    rows.finish(batch)
    return batch


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    text = read_text(path)
    if path.suffix == ".jsonl":
        yield from _json_records(path, text)
        return
    csv.field_size_limit(_MAX_CELL)
    if path.suffix == ".tsv":
        reader = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""))
    if absent := [column for column in REQUIRED if column not in (reader.fieldnames or [])]:
        raise UserError(f"{path}, line 1: no column {', '.join(absent)}; needed: {', '.join(REQUIRED)}")
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error


def _json_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and (absent := [column for column in REQUIRED if column not in record]):
            raise UserError(f"{path}, line {number}: no key {', '.join(absent)}; needed: {', '.join(REQUIRED)}")
        yield number, record if isinstance(record, dict) else None


def _cell(cells: dict[str, Any], column: str) -> str:
    value = cells.get(column)
    return "" if value is None else str(value).strip()
