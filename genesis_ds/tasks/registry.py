"""The built-in tasks: a name, a weight, where the class is, and a line on what it teaches. Nothing is imported here."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A task that a run may name under `tasks`."""

    path: str
    """module:Class."""
    weight: float
    """Of a run that gives no weights."""
    about: str
    """What --help says of it."""


TASKS = {
    "lm": Entry("genesis_ds.tasks.lm:LanguageModelling", 0.70, "language modelling on packed windows"),
    "coherence": Entry(
        "genesis_ds.tasks.coherence:Coherence", 0.15, "whether one verse follows another, against graded negatives"
    ),
    "cross_reference": Entry(
        "genesis_ds.tasks.cross_reference:CrossReference",
        0.075,
        "a verse is closer to one it refers to than to the neighbours of that one",
    ),
    "paraphrase": Entry(
        "genesis_ds.tasks.paraphrase:Paraphrase",
        0.075,
        "a verse is closer to itself in another language than to its neighbours there",
    ),
}
IN_ARITHMETIC = {"lm": "genesis_ds.tasks.arithmetic:ModularArithmetic"}
"""What a task is in a run of arithmetic, which has no text: name -> module:Class."""
DEFAULT_WEIGHTS = {name: entry.weight for name, entry in TASKS.items()}
