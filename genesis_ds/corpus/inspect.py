"""What `genesis-ds corpus inspect` and `import` print of a corpus: its counts, as data and as text, and one verse."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genesis_ds.corpus.references import format_reference
from genesis_ds.corpus.splits import Split
from genesis_ds.corpus.verses import Corpus, Flag, Translation
from genesis_ds.errors import beginning

LEGEND = {
    "verses": "rows with text",
    "missing": "rows without text",
    "merged": "rows whose text stands in the row before",
    "absent": "ids that other translations have and this one has no row for",
    "bytes": "of UTF-8, in all",
    "bytes/verse": "the mean of the rows with text",
    "tokens": "of the texts, by the tokenizer",
    "windows": "of {seq_len} tokens of training text, which an epoch of language modelling has",
}
"""Column -> what it counts."""
_WIDEST = 100
"""Columns of a verse that are shown."""


@dataclass(frozen=True)
class TranslationRow:
    """The counts of one translation."""

    name: str
    language: str
    verses: int
    """Rows with text."""
    missing: int
    """Rows without text."""
    merged: int
    """Rows whose text stands in the row before."""
    absent: int
    """Ids of the corpus that it has no row for."""
    bytes: int
    """UTF-8 bytes in all."""
    tokens: int | None = None
    """None: the caller has not counted them."""
    windows: int | None = None
    """Windows of training text. None: the caller has not counted them."""

    @property
    def bytes_per_verse(self) -> float:
        """Mean UTF-8 bytes of a row with text."""
        return self.bytes / max(self.verses, 1)


@dataclass(frozen=True)
class Description:
    """The counts of a corpus."""

    translations: tuple[TranslationRow, ...]
    ids: int
    """Verse ids of all translations together."""
    ids_in_all: int
    """Ids with text in every translation."""
    tiers: dict[str, int]
    """Ids per tier."""
    cross_references: int
    has_verses: bool
    """False if every row is a whole chapter."""
    fingerprint: str


def describe(
    corpus: Corpus, split: Split, tokens: Mapping[str, int] | None = None, windows: Mapping[str, int] | None = None
) -> Description:
    """Count what the corpus holds.

    tokens, windows: by translation's name, counted by the caller, who has the tokenizer.
    """
    in_all = corpus.verse_ids
    for translation in corpus.translations:
        in_all = np.intersect1d(in_all, translation.verse_ids[translation.present])
    return Description(
        translations=tuple(
            _row(t, len(corpus.verse_ids), (tokens or {}).get(t.name), (windows or {}).get(t.name))
            for t in corpus.translations
        ),
        ids=len(corpus.verse_ids),
        ids_in_all=len(in_all),
        tiers=split.counts(),
        cross_references=len(corpus.cross_references),
        has_verses=corpus.has_verses,
        fingerprint=corpus.fingerprint,
    )


def _row(translation: Translation, ids: int, tokens: int | None, windows: int | None) -> TranslationRow:
    return TranslationRow(
        name=translation.name,
        language=translation.language,
        verses=int(translation.present.sum()),
        missing=int(np.count_nonzero(translation.flags & Flag.MISSING)),
        merged=int(np.count_nonzero(translation.flags & Flag.MERGED)),
        absent=ids - len(translation),
        bytes=sum(len(text.encode()) for text in translation.texts),
        tokens=tokens,
        windows=windows,
    )


def format_description(description: Description, seq_len: int = 0) -> str:
    """Format the description as a text table, a line on each of its columns, and a few lines on the whole.

    seq_len: tokens of a window, where windows are counted.
    """
    rows = [_cells(row) for row in description.translations]
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    table = [columns, *([row[column] or "-" for column in columns] for row in rows)]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(columns))]
    aligned = [[cells[i].ljust(w) if i < 2 else cells[i].rjust(w) for i, w in enumerate(widths)] for cells in table]
    unit = "verses" if description.has_verses else "chapters"
    tiers = ", ".join(f"{tier} {count:,}" for tier, count in description.tiers.items())
    return "\n".join(
        [
            *("  ".join(cells) for cells in aligned),
            *(f"  {column:<11}  {LEGEND[column].format(seq_len=seq_len)}" for column in columns[2:]),
            f"{unit}: {description.ids:,}, with text in every translation: {description.ids_in_all:,}",
            f"split: {tiers}",
            f"cross-references: {description.cross_references:,}",
            f"fingerprint: {description.fingerprint}",
        ]
    )


def _cells(row: TranslationRow) -> dict[str, str | None]:
    """Return the cells of a row by column, None for what has not been counted."""
    counts = {
        "verses": row.verses,
        "missing": row.missing,
        "merged": row.merged,
        "absent": row.absent,
        "bytes": row.bytes,
        "bytes/verse": row.bytes_per_verse,
        "tokens": row.tokens,
        "windows": row.windows,
    }
    of_whole = {column: None if count is None else f"{count:,}" for column, count in counts.items()}
    cells = {"translation": row.name, "language": row.language, **of_whole}
    return cells | {"bytes/verse": f"{row.bytes_per_verse:.1f}"}


def format_shared_verse(corpus: Corpus) -> str:
    """Return the first of the verses that most translations have, in all of them, a line each and long ones cut."""
    with_text = [translation.verse_ids[translation.present] for translation in corpus.translations]
    ids, counts = np.unique(np.concatenate(with_text), return_counts=True)
    shared = int(ids[counts.argmax()])
    width = max(len(translation.name) for translation in corpus.translations)
    lines = [f"{format_reference(shared)} in {counts.max()} of {len(with_text)} translations:"]
    for translation in corpus.translations:
        row = int(np.searchsorted(translation.verse_ids, shared))
        if row < len(translation) and translation.verse_ids[row] == shared and translation.present[row]:
            lines.append(f"  {translation.name:<{width}}  {beginning(translation.texts[row], _WIDEST)}")
    return "\n".join(lines)
