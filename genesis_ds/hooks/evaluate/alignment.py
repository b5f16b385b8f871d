"""Alignment: how alike the languages lie in the model's hidden states."""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import VerseStates
from genesis_ds.hooks.evaluate.representation_probe import RepresentationProbe

if TYPE_CHECKING:
    from genesis_ds.analysis.alignment import Orders

DOMINANT = 0.5
"""Share of the variance in one dimension from which on it is said."""


class Alignment(RepresentationProbe):
    """Compares every two of the languages at several depths; see `analysis.alignment.align` for the measures."""

    def __init__(
        self,
        states: VerseStates,
        verses: ParallelVerses,
        texts: Sequence[Sequence[str]],
        *,
        every: int,
        is_main: bool,
        standardize: bool = False,
    ) -> None:
        """verses: in two halves. texts: of the verses. standardize: as in the configuration."""
        super().__init__(states, verses, texts, every=every, is_main=is_main)
        self.standardize = standardize
        self.identity.append(standardize)
        self.pairs = list(itertools.combinations(range(len(verses.languages)), 2))
        self.fitted = verses.groups == 0

    @classmethod
    def build(cls, context: HookContext) -> RepresentationProbe | None:
        """Return the hook of a run that has the verses for it."""
        run = context.run
        return cls.on(
            context.alignment_verses,
            context,
            every=run.intervals.alignment,
            standardize=run.config.alignment.standardize,
        )

    @cached_property
    def orders(self) -> "Orders":
        """The orders by chance in which the verses are compared."""
        from genesis_ds.analysis.alignment import Orders
        from genesis_ds.analysis.resampling import derangements, exchangeable

        fit, test = (exchangeable(self.verses.verse_ids[half]) for half in (self.fitted, ~self.fitted))
        return Orders(derangements(fit), derangements(test))

    def measure(self, states: NDArray[np.floating[Any]], thorough: bool) -> dict[str, dict[str, float]]:
        from genesis_ds.analysis.alignment import Halves, align, eta_squared, judge, largest_dimension, standardized

        found = {
            metrics.ALIGNMENT: {
                metrics.ETA_SQUARED: eta_squared(states),
                "largest_dimension": max(largest_dimension(of_language).share for of_language in states),
            }
        }
        halves = [Halves(of_language[self.fitted], of_language[~self.fitted]) for of_language in states]
        if self.standardize:
            halves = [standardized(of_language) for of_language in halves]
        chapters = self.verses.verse_ids[~self.fitted] // 1000
        for a, b in self.pairs:
            measured = align(halves[a], halves[b])
            if thorough:
                measured |= judge(halves[a], halves[b], self.orders, chapters)
            found[self._name(a, b)] = measured
        return found

    def evaluate(self, record: StepRecord, by_depth: NDArray[np.floating[Any]]) -> None:
        if self.occasions.is_thorough(record) and not self.standardize and (warning := self.dominance(by_depth)):
            record.texts[metrics.DOMINANT_DIMENSION] = warning
        record.metrics |= {self._name(a, b) + metrics.TRIALS: int((~self.fitted).sum()) for a, b in self.pairs}
        super().evaluate(record, by_depth)

    def dominance(self, by_depth: NDArray[np.floating[Any]]) -> str | None:
        """Return what to say of states [depths, languages, n, D] where one dimension holds most of the variance."""
        from genesis_ds.analysis.alignment import largest_dimension

        said = []
        for depth, states in zip(self.states.depths, by_depth, strict=True):
            for language, of_language in zip(self.verses.languages, states, strict=True):
                dimension, share = largest_dimension(of_language)
                if share > DOMINANT:
                    said.append(
                        f"dimension {dimension} holds {share:.0%} of the variance of {language} at layer {depth}"
                    )
        return f"{'; '.join(said)}: the measures see little else; set alignment.standardize" if said else None

    def _name(self, a: int, b: int) -> str:
        return metrics.aligned(f"{self.verses.languages[a]}-{self.verses.languages[b]}")
