"""Alignment: how alike the languages lie in the model's hidden states."""

import itertools

import numpy as np
from threadpoolctl import threadpool_limits

from genesis_ds import metrics
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import VerseStates


class Alignment(Hook):
    """Compares every two of the languages at several depths; see `analysis.alignment.align` for the measures.

    The verses are the same at every step. All ranks run the model on them, the main rank alone compares: in one thread,
    because small matrices take seconds in the threads of BLAS while other processes use the cores.
    """

    def __init__(self, states: VerseStates, verses: ParallelVerses, every: int, is_main: bool) -> None:
        """verses: in two halves."""
        self.states, self.verses, self.every, self.is_main = states, verses, every, is_main

    @classmethod
    def build(cls, context: HookContext) -> "Alignment | None":
        """Return the hook of a run that has the verses for it."""
        if context.alignment_verses is None:
            return None
        states = VerseStates.of(context)
        return cls(states, context.alignment_verses, context.run.intervals.alignment, context.engine.ranks.is_main)

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            by_depth = self.states(self.verses)
            if self.is_main:
                self._compare(record, by_depth)

    def _compare(self, record: StepRecord, by_depth: np.ndarray) -> None:
        from genesis_ds.analysis.alignment import Halves, align  # with scikit-learn, 2 s and 70 MiB of this rank alone

        fitted = self.verses.groups == 0
        pairs = list(itertools.combinations(range(len(self.verses.languages)), 2))
        names = [metrics.aligned("-".join(self.verses.languages[side] for side in pair)) for pair in pairs]
        record.metrics |= {name + metrics.TRIALS: int((~fitted).sum()) for name in names}
        with threadpool_limits(1):
            for depth, states in zip(self.states.depths, by_depth, strict=True):
                halves = [Halves(of_language[fitted], of_language[~fitted]) for of_language in states]
                for pair, (a, b) in zip(names, pairs, strict=True):
                    measured = align(halves[a], halves[b])
                    record.metrics |= {metrics.at_depth(pair, depth, name): value for name, value in measured.items()}
