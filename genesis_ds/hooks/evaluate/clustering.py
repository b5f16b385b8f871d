"""Clustering: whether verses of one concept lie together in the hidden states, whatever their language."""

import numpy as np
from threadpoolctl import threadpool_limits

from genesis_ds import metrics
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import VerseStates


class Clustering(Hook):
    """Clusters the verses of some concepts at several depths; see `analysis.clustering.cluster` for the measures.

    The verses are the same at every step. All ranks run the model on them, the main rank alone clusters.
    """

    def __init__(self, states: VerseStates, verses: ParallelVerses, every: int, is_main: bool) -> None:
        """verses: in groups of one concept each."""
        self.states, self.verses, self.every, self.is_main = states, verses, every, is_main

    @classmethod
    def build(cls, context: HookContext) -> "Clustering | None":
        """Return the hook of a run that has the verses for it."""
        if context.clustering_verses is None:
            return None
        states = VerseStates.of(context)
        return cls(states, context.clustering_verses, context.run.intervals.clustering, context.engine.ranks.is_main)

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            by_depth = self.states(self.verses)
            if self.is_main:
                self._cluster(record, by_depth)

    def _cluster(self, record: StepRecord, by_depth: np.ndarray) -> None:
        # Imported here, and in one thread, for the reasons in hooks/evaluate/alignment.py.
        from genesis_ds.analysis.clustering import cluster

        n_languages, n = self.verses.rows.shape
        concepts, verses = (np.tile(values, n_languages) for values in (self.verses.groups, np.arange(n)))
        languages = np.repeat(np.arange(n_languages), n)
        with threadpool_limits(1):
            for depth, states in zip(self.states.depths, by_depth, strict=True):
                measured = cluster(states.reshape(len(concepts), -1), concepts, languages, verses)
                named = {metrics.at_depth(metrics.CLUSTERING, depth, name): value for name, value in measured.items()}
                record.metrics |= named
        record.metrics[metrics.CLUSTERING + metrics.TRIALS] = n
