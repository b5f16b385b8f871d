"""What `genesis-ds score` says, as data: `dataclasses.asdict` of a report is its JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from genesis_ds.inference.rates import Interval, Rate


@dataclass(frozen=True)
class About:
    """What a model is. tokenizer: its kind."""

    name: str
    path: str
    context: int
    tokenizer: str


@dataclass(frozen=True)
class Entry:
    """What each model says of something: a GroupRate or ComparedRate of several units, a Rate of one."""

    models: Sequence[Rate]


@dataclass(frozen=True)
class PartEntry(Entry):
    """Of a language, a file or a text."""

    name: str


@dataclass(frozen=True)
class BookEntry(PartEntry):
    """Of a book of a part."""

    part: str


@dataclass(frozen=True)
class UnitEntry(BookEntry):
    """Of a verse, a line or a text of a part."""

    text: str


@dataclass(frozen=True)
class Report:
    """What models say of a text."""

    text: str
    """What it is, in words."""
    units_are: str
    """verses, lines or texts."""
    models: Sequence[About]
    names: Sequence[str]
    """Of the models, and of their mean where it is judged too: what an Entry has a rate of each."""
    n_units: int
    n_chapters: int | None
    """None for a text that has none."""
    all: Entry
    parts: Sequence[PartEntry]
    books: Sequence[BookEntry]
    units: Sequence[UnitEntry]
    """The worst for the first model first, as the books are."""


@dataclass(frozen=True)
class PairsOfModel:
    """How often a model gives the better text of a pair the higher probability."""

    name: str
    accuracy: float
    interval: Interval
    wrong: Sequence[tuple[str, str]]
    """Pairs, better and worse, of which it does not."""


@dataclass(frozen=True)
class PairsReport:
    """What models say of the n pairs of a file."""

    pairs: str
    n: int
    models: Sequence[PairsOfModel]
