"""One plain text file: a verse per line, ``Genesis 1:1 In the beginning...``, or ``Ruth 1:3-4 ...`` for several."""

import re
from pathlib import Path

from genesis_ds.corpus.readers.intake import FileRows, Imported, identify, read_text, require_language, safe_name
from genesis_ds.errors import UserError

_REFERENCE = r"\s*(?P<book>\S[^\r\u2028]{0,40}?)[\s.]+(?P<chapter>\d+)[:.](?P<verse>\d+(?:[-\u2013\u2014]\d+)?)"
_LINE = re.compile(
    _REFERENCE + r"(?![:.\u2013\u2014-]?\d)(?:(?:\s*(?P<mark>[:.\u2013\u2014-])(?!(?P=mark))\s*|\s+)(?P<text>.*))?",
    re.DOTALL,
)
"""One mark or white space divides reference and text. No further number may stand close by, as in ``1:22-2:1``: it
would be read as text."""
_LOST_LINE_END = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029](?=" + re.sub(r"\?P<\w+>", "?:", _REFERENCE) + r"\s)")


def read(path: Path, language: str | None, name: str | None) -> Imported:
    """Read the file as one translation. Blank lines do not count; a reference alone is a missing verse."""
    key = (require_language(path, language), safe_name(name or path.stem))
    rows = FileRows(path)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        for verse in _LOST_LINE_END.split(line):
            if verse.strip():
                _add(rows, number, key, verse.rstrip())
    imported = Imported()
    rows.finish(imported)
    return imported


def _add(rows: FileRows, number: int, key: tuple[str, str], line: str) -> None:
    match = _LINE.fullmatch(line)
    if match is None:
        rows.reject(number, "does not begin with a reference such as 'Genesis 1:1' or 'Genesis 1:1-2'")
        return
    try:
        rows.add(number, key, identify(match["book"], match["chapter"], match["verse"]), match["text"] or "")
    except UserError as error:
        rows.reject(number, str(error))
