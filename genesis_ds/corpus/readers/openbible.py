"""Cross-references of OpenBible.info (CC BY): a TSV of `From Verse`, `To Verse` and `Votes`.

References are written `Gen.1.1`; a row may refer to a range, `Ps.33.6-Ps.33.9`.
"""

import re
from collections.abc import Callable, Set
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from genesis_ds.corpus.readers.intake import read_text
from genesis_ds.corpus.references import parse_reference
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.errors import UserError

HEADER = ["From Verse", "To Verse", "Votes"]
SOURCE = "openbible.info"
LEAST_VOTES = 1
"""Rows with fewer votes are disputed and left out."""
_VOTES = re.compile(r"\s*-?\d{1,9}\s*")
_EXAMPLES = 3


def read_cross_references(path: Path, known_ids: ArrayLike) -> tuple[CrossReferences, list[str]]:
    """Read the links between known verses, weighted by their votes, and a notice if rows were skipped.

    A range within a chapter is a link to each of its known verses; one over several chapters, a whole passage, is a
    link to its first verse. Of a pair in several rows the most votes count. Raises UserError for a file in another
    format or without a usable row.
    """
    header, *lines = read_text(path).split("\n")
    if header.split("\t")[:3] != HEADER:
        raise UserError(f"{path}, line 1: not the header of OpenBible.info; needed, with tabs: {', '.join(HEADER)}")
    known = frozenset(np.asarray(known_ids).tolist())
    parse = cache(parse_reference)
    votes_of: dict[tuple[int, int], int] = {}
    skipped: list[str] = []
    for number, line in enumerate(lines, 2):
        try:
            for pair, votes in _parse_row(line, parse, known) if line.strip() else ():
                votes_of[pair] = max(votes, votes_of.get(pair, votes))
        except UserError as error:
            skipped.append(f"line {number}: {error}")
    notice = f"{path}: skipped {len(skipped)} rows ({'; '.join(skipped[:_EXAMPLES])})"
    if not votes_of:
        raise UserError(
            f"{notice if skipped else path}: no usable cross-reference; needed: rows such as Gen.1.1, Ps.33.6-Ps.33.9, "
            f"12, with tabs, between verses of the corpus, with at least {LEAST_VOTES} vote"
        )
    pairs = np.array(sorted(votes_of))
    weights = np.array([votes_of[pair] for pair in sorted(votes_of)])
    links = CrossReferences(pairs[:, 0], pairs[:, 1], weights, [SOURCE] * len(votes_of))
    return links, [notice] if skipped else []


def _parse_row(line: str, parse: Callable[[str], int], known: Set[int]) -> list[tuple[tuple[int, int], int]]:
    """Return the links of a row with their votes; none for a disputed row. Raises UserError for what cannot be used."""
    cells = line.split("\t")
    if len(cells) < len(HEADER) or not _VOTES.fullmatch(cells[2]):
        raise UserError("needs two references and a number of votes")
    origin, votes = parse(cells[0]), int(cells[2])
    targets = [target for target in _parse_target(cells[1], parse) if target in known]
    if origin not in known or not targets:
        raise UserError(f"{cells[0]} or {cells[1]} is not in the corpus")
    return [((origin, target), votes) for target in targets if target != origin] if votes >= LEAST_VOTES else []


def _parse_target(text: str, parse: Callable[[str], int]) -> range:
    """Return the ids of a verse or a range; of one over several chapters the first."""
    first, _, last = text.partition("-")
    start = parse(first)
    stop = parse(last) if last else start
    return range(start, stop + 1) if start // 1000 == stop // 1000 else range(start, start + 1)
