"""Concepts: whether verses of one concept lie together in the hidden states, whatever their language."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.representation_probe import RepresentationProbe


class Clustering(RepresentationProbe):
    """Looks for the concepts of the verses, which are in groups of one each, at several depths.

    See `analysis.transfer.transfer` and `analysis.clustering.cluster` for the measures.
    """

    @classmethod
    def build(cls, context: HookContext) -> RepresentationProbe | None:
        """Return the hook of a run that has the verses for it."""
        return cls.on(context.clustering_verses, context, every=context.run.intervals.clustering)

    def measure(self, states: NDArray[np.floating[Any]], thorough: bool) -> dict[str, dict[str, float]]:
        from genesis_ds.analysis.clustering import cluster
        from genesis_ds.analysis.transfer import Labels, transfer

        n_languages, n = self.verses.rows.shape
        concepts, verses = (np.tile(values, n_languages) for values in (self.verses.groups, np.arange(n)))
        found = transfer(states, Labels(self.verses.groups, self.verses.verse_ids), thorough=thorough)
        found |= cluster(
            states.reshape(len(concepts), -1),
            concepts,
            np.repeat(np.arange(n_languages), n),
            verses,
            verse_ids=np.tile(self.verses.verse_ids, n_languages) if thorough else None,
        )
        return {metrics.CLUSTERING: found}

    def evaluate(self, record: StepRecord, by_depth: NDArray[np.floating[Any]]) -> None:
        super().evaluate(record, by_depth)
        record.metrics[metrics.CLUSTERING + metrics.TRIALS] = self.verses.rows.shape[1]
