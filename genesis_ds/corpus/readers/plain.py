"""One plain text file: a verse per line, ``Genesis 1:1 In the beginning...``."""

import re
from pathlib import Path

from genesis_ds.corpus.readers.intake import Batch, FileRows, identify, read_text, require_language, safe_name
from genesis_ds.errors import UserError

_LINE = re.compile(
    r"\s*(?P<book>\S.{0,40}?)[\s.]+(?P<chapter>\d+)[:.](?P<verse>\d+)(?:[\s:.\u2013\u2014-]+(?P<text>.*))?"
)


def read(path: Path, language: str | None, name: str | None) -> Batch:
    """Read the file as one translation. Blank lines do not count; a reference alone is a missing verse."""
    key = (require_language(path, language), safe_name(name or path.stem))
    rows = FileRows(path)
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            rows.reject(number, "does not begin with a reference such as 'Genesis 1:1'")
            continue
        try:
            rows.add(number, key, identify(match["book"], match["chapter"], match["verse"]), match["text"] or "")
        except UserError as error:
            rows.reject(number, str(error))
    batch = Batch()
    rows.finish(batch)
    return batch
