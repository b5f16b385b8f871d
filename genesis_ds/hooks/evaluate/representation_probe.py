"""What measures of hidden states have in common: the verses, and what stands beside every value."""

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from genesis_ds import metrics
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import VerseStates
from genesis_ds.hooks.evaluate.occasions import BesideStep0, Occasions


class RepresentationProbe(BesideStep0):
    """Measures hidden states of the same verses at several depths, step by step, beside its controls.

    These are the same measures on what the surface of the text gives, and on the model before the first step. All ranks
    run the model, the main rank alone measures: in one thread, because small matrices take seconds in the threads of
    BLAS while other processes use the cores.
    """

    version = 2

    def __init__(
        self, states: VerseStates, verses: ParallelVerses, texts: Sequence[Sequence[str]], *, every: int, is_main: bool
    ) -> None:
        """texts: of the verses, n for each language."""
        super().__init__()
        self.states, self.verses, self.texts, self.every, self.is_main = states, verses, texts, every, is_main
        self.identity = [zlib.crc32(verses.rows.tobytes()), zlib.crc32(verses.groups.tobytes())]
        self.occasions = Occasions()
        self.on_surface: dict[str, float] = {}

    @classmethod
    def on(
        cls, verses: ParallelVerses | None, context: HookContext, *, every: int, **options: bool
    ) -> "RepresentationProbe | None":
        """Return the hook of a run on these verses; None where the run has none. options: of the class."""
        if verses is None or context.text is None:
            return None
        texts, is_main = verses.texts(context.text.tokenizer), context.engine.ranks.is_main
        return cls(VerseStates.of(context), verses, texts, every=every, is_main=is_main, **options)

    @abstractmethod
    def measure(self, states: NDArray[np.floating[Any]], thorough: bool) -> dict[str, dict[str, float]]:
        """Return what is found in states [languages, n, any width]: metric -> measure -> value.

        thorough: with z-scores and intervals.
        """

    def measured(self) -> dict[str, float]:
        by_depth = self.states(self.verses)
        if not self.is_main:
            return {}
        with threadpool_limits(1):
            return self._by_depth(by_depth, thorough=True)

    def on_step(self, record: StepRecord) -> None:
        self.occasions.look(record)
        if record.due(self.every):
            by_depth = self.states(self.verses)
            if self.is_main:
                with threadpool_limits(1):
                    self.evaluate(record, by_depth)

    def evaluate(self, record: StepRecord, by_depth: NDArray[np.floating[Any]]) -> None:
        """Record what is found in states [depths, languages, n, D], and what stands beside it."""
        found = self._by_depth(by_depth, thorough=self.occasions.count(record))
        self.on_surface = self.on_surface or self._on_surface()
        record.metrics |= found | self.on_surface | self.beside(found)

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self.identity, "at_step_0": self.at_step_0, **self.occasions.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["identity"] == self.identity:  # else it is of other verses
            self.at_step_0 = state["at_step_0"]
            self.occasions.load_state_dict(state)

    def _by_depth(self, by_depth: NDArray[np.floating[Any]], thorough: bool) -> dict[str, float]:
        return {
            metrics.at_depth(metric, depth, measure): value
            for depth, states in zip(self.states.depths, by_depth, strict=True)
            for metric, measures in self.measure(states, thorough).items()
            for measure, value in measures.items()
        }

    def _on_surface(self) -> dict[str, float]:
        from genesis_ds.analysis.surface import SURFACES  # with scikit-learn, 2 s and 70 MiB of this rank alone

        texts, shape = [text for of_language in self.texts for text in of_language], self.verses.rows.shape
        return {
            metrics.on_surface(metric, surface, measure): value
            for surface, states_of in SURFACES.items()
            for metric, measures in self.measure(states_of(texts).reshape(*shape, -1), thorough=False).items()
            for measure, value in measures.items()
        }
