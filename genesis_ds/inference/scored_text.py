"""The texts that are scored: those of a command line, files, and the splits of a corpus."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.corpus.references import USFM_CODES, format_reference
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.corpus.verses import Translation
from genesis_ds.data.token_set import build_stream, select_translations
from genesis_ds.errors import UserError
from genesis_ds.inference.rates import Judged, Units
from genesis_ds.tokenizer import Tokenizer
from genesis_ds.user_files import read_text

LARGEST_TEXT = 2**30
"""Bytes of a file that is scored."""


@dataclass(frozen=True)
class Tokens:
    """A part of a text as token ids, and the first token of each of its units."""

    ids: NDArray[np.integer[Any]]
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A language, a file or a text that is scored: what it is made of, and how a tokenizer spells it."""

    units: Units
    tokens: Callable[[Tokenizer], Tokens]


def of_texts(texts: Sequence[str]) -> list[Part]:
    """Return each text as a part with one unit. Raises UserError for an empty one."""
    for number, text in enumerate(texts, 1):
        if not text:
            raise UserError(f"text: text {number} is empty; leave it out")
    return [_of_lines(f"text {number}", [text], [f"text {number}"]) for number, text in enumerate(texts, 1)]


def of_file(path: str) -> Part:
    """Return a file, or the standard input for -, as a part whose units are its lines. Raises UserError without any."""
    lines = read_input(path, "file").removesuffix("\n").split("\n")
    return _of_lines(path, lines, [f"line {number}" for number in range(1, len(lines) + 1)])


def read_input(path: str, what: str) -> str:
    """Return the text of a UTF-8 file, or of the standard input for -. Raises UserError where there is none."""
    if path != "-":
        text = read_text(path, what, largest=LARGEST_TEXT)
    else:
        try:
            text = sys.stdin.buffer.read().decode().replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{what}: the standard input is no UTF-8 text (byte {error.start})") from None
    if not text.strip("\n"):
        raise UserError(f"{what}: {path} holds no text; give one that does")
    return text


def of_split(directory: str, languages: Sequence[str], split: str, split_seed: int) -> list[Part]:
    """Return a split of a corpus, a part for each language whose units are verses. Raises UserError for an empty one.

    split: `val_chapter`, `val_book` or `train_subset`, which is a part of all training text.
    """
    corpus = load_corpus(directory)
    tier = "train" if split == metrics.TRAIN_SUBSET else split
    tiers = split_verses(corpus, split_seed)
    parts = []
    for label, translation in select_translations(corpus.translations, languages).items():
        rows = tiers.rows(tier, translation)
        if not len(rows):
            continue
        ids = translation.verse_ids[rows]
        units = Units(
            parts=[label] * len(ids),
            names=[format_reference(verse) for verse in ids],
            books=[USFM_CODES[verse // 1_000_000 - 1] for verse in ids],
            chapters=ids.astype(np.int64) // 1000,
            texts=[translation.texts[row] for row in rows],
        )
        parts.append(Part(units, partial(_verses, translation, rows)))
    if not parts:
        of = f" in {', '.join(languages)}" if languages else ""
        raise UserError(
            f"split: {split} of {directory} holds no verse{of}; see `genesis-ds corpus inspect {directory}`"
        )
    return parts


def joined(parts: Sequence[Part]) -> Units:
    """Return the units of all parts. What has no chapter, being of no book, is a chapter of its own."""
    units = [part.units for part in parts]
    books = [book for each in units for book in each.books]
    chapters = np.concatenate([each.chapters for each in units])
    return Units(
        parts=[part for each in units for part in each.parts],
        names=[name for each in units for name in each.names],
        books=books,
        chapters=chapters if any(books) else np.arange(len(books)),
        texts=[text for each in units for text in each.texts],
    )


def judged(nats: Sequence[NDArray[np.float64]], tokens: Sequence[Tokens], tokenizer: Tokenizer) -> Judged:
    """Return what a model says of the units of all parts, given the nats of their tokens.

    A unit has its own tokens and what stands between it and the next: a line break, or the end of a chapter.
    """
    lengths = tokenizer.byte_lengths
    columns: list[list[NDArray[Any]]] = [[], [], [], []]
    for values, of_part in zip(nats, tokens, strict=True):
        n = len(of_part.starts)
        unit = np.searchsorted(of_part.starts, np.arange(1, len(of_part.ids)), side="right") - 1
        unit, there = unit.clip(min=0), ~np.isnan(values)
        n_judged = np.bincount(unit[there], minlength=n)
        columns[0].append(np.bincount(unit[there], values[there], minlength=n))
        columns[1].append(n_judged)
        columns[2].append(np.bincount(unit[there], lengths[of_part.ids[1:]][there], minlength=n).astype(np.int64))
        columns[3].append(n_judged == np.bincount(unit, minlength=n))
    nats_of, n_tokens, n_bytes, is_whole = (np.concatenate(column) for column in columns)
    return Judged(nats_of, n_tokens, n_bytes, is_whole)


def _of_lines(label: str, lines: Sequence[str], names: Sequence[str]) -> Part:
    kept = [number for number, line in enumerate(lines) if line]
    units = Units(
        parts=[label] * len(kept),
        names=[names[number] for number in kept],
        books=[""] * len(kept),
        chapters=np.arange(len(kept)),
        texts=[lines[number] for number in kept],
    )
    return Part(units, partial(_lines, lines, label))


def _verses(translation: Translation, rows: NDArray[np.int64], tokenizer: Tokenizer) -> Tokens:
    stream = build_stream(translation, rows, tokenizer)
    return Tokens(stream.tokens, stream.starts)


def _lines(lines: Sequence[str], label: str, tokenizer: Tokenizer) -> Tokens:
    ids, starts = [tokenizer.bos_id], []
    line_break = tokenizer.encode("\n")
    try:
        encoded = tokenizer.encode_many(lines)
    except ValueError as error:
        raise UserError(f"{label}: {error}") from error
    for number, line in enumerate(encoded):
        ids += line_break if number else []
        if len(line):
            starts.append(len(ids))
        ids += line.tolist()
    return Tokens(np.array(ids), np.array(starts))
