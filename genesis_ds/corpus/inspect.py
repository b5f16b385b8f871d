"""The description of a corpus that `genesis-ds corpus inspect` prints, as data and as text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genesis_ds.corpus.splits import Split
from genesis_ds.corpus.verses import Corpus, Flag, Translation


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


def describe(corpus: Corpus, split: Split, tokens: Mapping[str, int] | None = None) -> Description:
    """Count what the corpus holds. tokens: {translation name: tokens}, counted by the caller, who has the tokenizer."""
    in_all = corpus.verse_ids
    for translation in corpus.translations:
        in_all = np.intersect1d(in_all, translation.verse_ids[translation.present])
    return Description(
        translations=tuple(_row(t, len(corpus.verse_ids), (tokens or {}).get(t.name)) for t in corpus.translations),
        ids=len(corpus.verse_ids),
        ids_in_all=len(in_all),
        tiers=split.counts(),
        cross_references=len(corpus.cross_references),
        has_verses=corpus.has_verses,
        fingerprint=corpus.fingerprint,
    )


def _row(translation: Translation, ids: int, tokens: int | None) -> TranslationRow:
    return TranslationRow(
        name=translation.name,
        language=translation.language,
        verses=int(translation.present.sum()),
        missing=int(np.count_nonzero(translation.flags & Flag.MISSING)),
        merged=int(np.count_nonzero(translation.flags & Flag.MERGED)),
        absent=ids - len(translation),
        bytes=sum(len(text.encode()) for text in translation.texts),
        tokens=tokens,
    )


def format_description(description: Description) -> str:
    """Format the description as a text table and a few lines under it."""
    with_tokens = any(row.tokens is not None for row in description.translations)
    header = ["translation", "language", "verses", "missing", "merged", "absent", "bytes", "bytes/verse"]
    table = [header + ["tokens"] * with_tokens]
    for row in description.translations:
        counts = [row.verses, row.missing, row.merged, row.absent, row.bytes]
        cells = [row.name, row.language, *(f"{count:,}" for count in counts), f"{row.bytes_per_verse:.1f}"]
        table.append(cells + (["-" if row.tokens is None else f"{row.tokens:,}"] if with_tokens else []))
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    aligned = [[cells[i].ljust(w) if i < 2 else cells[i].rjust(w) for i, w in enumerate(widths)] for cells in table]
    lines = ["  ".join(cells) for cells in aligned]
    unit = "verses" if description.has_verses else "chapters"
    tiers = ", ".join(f"{tier} {count:,}" for tier, count in description.tiers.items())
    return "\n".join(
        [
            *lines,
            f"{unit}: {description.ids:,}, with text in every translation: {description.ids_in_all:,}",
            f"split: {tiers}",
            f"cross-references: {description.cross_references:,}",
            f"fingerprint: {description.fingerprint}",
        ]
    )
