"""The evaluations of the tasks on verses: measures as means over trials, each beside its chance level."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.tasks.base import Findings, Model, Score


@dataclass(frozen=True)
class Answer:
    """One measure of the model."""

    metric: str
    trials: NDArray[np.float64]
    """[n]: the values of which the measure is the mean."""
    beside: Mapping[str, float]
    """Suffix of the metric's name -> what to compare the mean with."""

    def measures(self) -> dict[str, float]:
        """Return the mean, what to compare it with and the number of trials, by their names as metrics."""
        named = {self.metric + suffix: value for suffix, value in self.beside.items()}
        return {self.metric: float(self.trials.mean()), **named, self.metric + metrics.TRIALS: len(self.trials)}


@dataclass(frozen=True)
class Judgement:
    """The measures and scores of one split."""

    split: str
    answers: list[Answer]
    scores: dict[str, Score]
    """Curve (coherence/en, paraphrase/en-es) -> its score."""


class VerseEvaluation(ABC):
    """Judges a model at a task on verses."""

    def __init__(self, curves_of: str | None) -> None:
        """curves_of: the validation split whose curves are wanted."""
        self.curves_of = curves_of

    @abstractmethod
    def judge(self, model: Model) -> Iterable[Judgement]:
        """Return the model's measures and scores of each split."""

    def __call__(self, model: Model) -> Findings:
        """Return the measures on validation splits, and the scores on all."""
        found = Findings(curves_of=self.curves_of)
        for judgement in self.judge(model):
            found.scores.setdefault(judgement.split, {}).update(judgement.scores)
            for answer in judgement.answers if judgement.split != metrics.TRAIN_SUBSET else []:
                found.metrics.update(answer.measures())
        return found
