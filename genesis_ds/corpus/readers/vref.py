"""eBible's aligned files: ``vref.txt`` names the verse of each line, ``<language>-<name>.txt`` holds its text.

A blank line is a missing verse, ``<range>`` a verse whose text stands in the line before. References outside the
66 books and their King James chapters are left out; ids are otherwise taken as vref.txt prints them.
"""

from pathlib import Path

from genesis_ds.corpus.readers.intake import Batch, FileRows, read_text, safe_name
from genesis_ds.corpus.references import parse_reference
from genesis_ds.corpus.verses import Flag, check_language
from genesis_ds.errors import UserError

INDEX = "vref.txt"
MERGED_LINE = "<range>"

_SHORT_TAGS = {
    "arb": "ar", "ara": "ar", "cmn": "zh", "deu": "de", "eng": "en", "fra": "fr", "hin": "hi", "ind": "id",
    "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pes": "fa", "pol": "pl", "por": "pt", "rus": "ru",
    "spa": "es", "swh": "sw", "tgl": "tl", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


def read(index: Path, files: list[Path], language: str | None) -> Batch:
    """Read the aligned `files`. One whose number of lines differs from vref.txt's is skipped with a notice.

    The language is the file name's part before the first ``-`` (BCP-47: ``eng`` becomes ``en``); a name without
    one needs `language`.
    """
    batch = Batch()
    identifiers = _read_index(index, batch)
    for path in files:
        lines = _lines(path)
        if len(lines) != len(identifiers):
            batch.notices.append(
                f"{path} has {len(lines)} lines and {index.name} {len(identifiers)}: it is not aligned and was skipped"
            )
            continue
        rows = FileRows(path)
        key = (_language(path, language), safe_name(path.stem))
        for number, (identifier, text) in enumerate(zip(identifiers, lines, strict=True), 1):
            merged = text.strip() == MERGED_LINE
            if identifier is not None:
                rows.add(number, key, identifier, "" if merged else text, Flag.MERGED if merged else 0)
        rows.finish(batch)
    return batch


def _lines(path: Path) -> list[str]:
    return read_text(path).removesuffix("\n").split("\n")


def _read_index(index: Path, batch: Batch) -> list[int | None]:
    identifiers: list[int | None] = []
    outside: list[tuple[int, str]] = []
    for number, line in enumerate(_lines(index), 1):
        try:
            identifiers.append(parse_reference(line))
        except UserError as error:
            identifiers.append(None)
            outside.append((number, str(error)))
    if outside:
        number, reason = outside[0]
        count = f"{index}: {len(outside)} of {len(identifiers)} references are outside the 66 books"
        if 2 * len(outside) > len(identifiers):
            raise UserError(f"{count}; line {number}: {reason}")
        batch.notices.append(f"{count} (first: line {number}); they were left out")
    return identifiers


def _language(path: Path, language: str | None) -> str:
    prefix, dash, _ = path.stem.partition("-")
    if not dash:
        if language is None:
            raise UserError(f"{path} does not say its language: name it <language>-<name>.txt or give --language")
        return language
    tag = _SHORT_TAGS.get(prefix.lower(), prefix)
    check_language(tag)
    return tag
