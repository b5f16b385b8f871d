"""Packs: examples of several verses each, laid out in a few rows of tokens with little padding.

All verses of an example lie in the same pack, and each lies whole in one of its rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

ENOUGH = 0.98
"""A pack is taken at once when this share of it is filled."""
ATTEMPTS = 8
"""Otherwise the fullest of so many attempts is taken."""
AHEAD = 4
"""Examples that fill this many packs wait to be packed."""


class Placed(NamedTuple):
    """An example in a pack."""

    example: int
    """Its number among the examples."""
    rows: list[int]
    """The row of each of its verses."""


class _Waiting(NamedTuple):
    """An example that is not in a pack yet, by its number, the lengths of its verses and their sum."""

    example: int
    lengths: Sequence[int]
    total: int


def pack(lengths: Iterable[Sequence[int]], n_rows: int, seq_len: int) -> Iterator[list[Placed]]:
    """Yield packs of n_rows rows of seq_len tokens, given how many tokens each verse of each example has.

    What a pack holds depends on the examples alone. Each begins with the example that has waited longest, so none
    waits long; one that fits in no pack is left out. The examples may be endless; of finitely many, all are packed.
    """
    examples = (_Waiting(number, verses, sum(verses)) for number, verses in enumerate(lengths))
    source = (example for example in examples if _place(example.lengths, [seq_len] * n_rows))
    waiting: list[_Waiting] = []
    while True:
        ahead = sum(example.total for example in waiting)
        while ahead < AHEAD * n_rows * seq_len and (example := next(source, None)):
            waiting.append(example)
            ahead += example.total
        if not waiting:
            return
        placed = _fullest(waiting, n_rows, seq_len)
        taken = {example for example, _ in placed}
        waiting = [example for example in waiting if example.example not in taken]
        yield placed


def _fullest(waiting: list[_Waiting], n_rows: int, seq_len: int) -> list[Placed]:
    """Return the best of the attempts to fill a pack, which differ in where among those waiting they go on."""
    best: list[Placed] = []
    least = n_rows * seq_len + 1
    for attempt in range(ATTEMPTS):
        onward = 1 + attempt * len(waiting) // ATTEMPTS
        placed, padding = _fill([waiting[0], *waiting[onward:], *waiting[1:onward]], n_rows, seq_len)
        if padding < least:
            best, least = placed, padding
        if least <= (1 - ENOUGH) * n_rows * seq_len:
            break
    return best


def _fill(examples: list[_Waiting], n_rows: int, seq_len: int) -> tuple[list[Placed], int]:
    """Place examples in order until one does not fit, then the longest that fit. Return them and the padding left."""
    free = [seq_len] * n_rows
    placed: list[Placed] = []
    for example in examples:
        if not (rows := _place(example.lengths, free)):
            break
        placed.append(Placed(example.example, rows))
    left = sum(free)
    for example in sorted(examples[len(placed) :], key=lambda example: -example.total):
        if example.total <= left and (rows := _place(example.lengths, free)):
            placed.append(Placed(example.example, rows))
            left -= example.total
    return placed, left


def _place(lengths: Sequence[int], free: list[int]) -> list[int] | None:
    """Return the row of each verse, the fullest in which it fits, and take the space from `free`.

    None, with `free` as it was, if one of them does not fit.
    """
    left_in = free.copy()
    rows = []
    for length in lengths:
        fitting = [row for row, left in enumerate(left_in) if left >= length]
        if not fitting:
            return None
        rows.append(min(fitting, key=left_in.__getitem__))
        left_in[rows[-1]] -= length
    free[:] = left_in
    return rows
