"""The built-in tasks: their names, classes, weights and descriptions. Nothing is imported here."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A task that a run may name under `tasks`."""

    path: str
    """module:Class."""
    weight: float
    """The weight in a run that gives none to any task; 0: such a run does not train it."""
    about: str
    """The description that --help shows."""


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
    "multi_token": Entry("genesis_ds.tasks.multi_token:MultiToken", 0.0, "the tokens after the next one"),
}
IN_ARITHMETIC = {"lm": "genesis_ds.tasks.arithmetic:ModularArithmetic"}
"""Name -> module:Class of a task in a run of arithmetic, which has no text."""
DEFAULT_WEIGHTS = {name: entry.weight for name, entry in TASKS.items()}
