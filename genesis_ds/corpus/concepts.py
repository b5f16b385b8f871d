"""The concepts that verses speak of: by keywords in their text, or by a file of topics.

What is found for a verse id holds in every language. A verse of several concepts belongs to none of them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from genesis_ds.corpus.references import format_reference, parse_reference
from genesis_ds.corpus.words import word_pattern
from genesis_ds.errors import UserError
from genesis_ds.user_files import read_text

_EXAMPLES = 3
_LARGEST = 2**26
"""Bytes of a file of topics: many for each verse of the Bible."""


def concepts_by_keyword(texts: Mapping[int, str], keywords: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Return {verse id: the concept of which its text has a keyword}; see `word_pattern` for what a keyword is."""
    patterns = {concept: word_pattern(words) for concept, words in keywords.items()}
    found = {
        verse: [concept for concept, pattern in patterns.items() if pattern.search(text)]
        for verse, text in texts.items()
    }
    return {verse: concepts[0] for verse, concepts in found.items() if len(concepts) == 1}


def read_topics(path: Path, known_ids: ArrayLike) -> tuple[dict[int, str], list[str]]:
    """Read {verse id: topic}, and a notice if lines were skipped, from a file of lines `topic<TAB>reference`.

    References are as in `parse_reference` (Genesis 1:1, GEN 1:1, Gen.1.1); blank lines and those that begin with # do
    not count. Raises UserError for a file that cannot be read or names no verse of known_ids.
    """
    known = frozenset(np.asarray(known_ids).tolist())
    topics: dict[int, set[str]] = defaultdict(set)
    skipped: list[str] = []
    for number, line in enumerate(read_text(path, largest=_LARGEST).split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            topic, verse = _parse(line)
            if verse not in known:
                raise UserError(f"the run has no verse {format_reference(verse)}")
            topics[verse].add(topic)
        except UserError as error:
            skipped.append(f"line {number}: {error}")
    notice = f"{path}: skipped {len(skipped):,} lines ({'; '.join(skipped[:_EXAMPLES])})"
    if not topics:
        raise UserError(
            f"{notice if skipped else path}: names no verse of the run; needed: lines of a topic, a tab and a "
            "reference such as Genesis 1:1"
        )
    single = {verse: next(iter(names)) for verse, names in topics.items() if len(names) == 1}
    return single, [notice] if skipped else []


def _parse(line: str) -> tuple[str, int]:
    topic, tab, reference = line.partition("\t")
    if not tab or not topic.strip():
        raise UserError("needs a topic, a tab and a reference")
    return topic.strip(), parse_reference(reference)
