"""The evaluations of the tasks on verses: measures as means over trials, each beside what needs no model."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.analysis.resampling import wilson
from genesis_ds.tasks.base import Findings, Model, Score, TaskContext
from genesis_ds.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One measure of the model."""

    metric: str
    trials: NDArray[np.float64]
    """[n], from 0 to 1: the values of which the measure is the mean."""
    beside: Mapping[str, float]
    """Suffix of the metric's name -> what to compare the mean with."""

    def measures(self) -> dict[str, float]:
        """Return the mean, its 95 % interval, what to compare it with and the number of trials, as metrics."""
        named = {self.metric + suffix: value for suffix, value in self.beside.items()}
        mean, n = float(self.trials.mean()), len(self.trials)
        low, high = wilson(mean, n)
        named |= {self.metric + metrics.LOW: low, self.metric + metrics.HIGH: high, self.metric + metrics.TRIALS: n}
        return {self.metric: mean, **named}


@dataclass(frozen=True)
class Judgement:
    """The measures and scores of one split."""

    split: str
    answers: list[Answer]
    scores: dict[str, Score]
    """Curve (coherence/en, paraphrase/en-es) -> its score."""


class Guesses(NamedTuple):
    """What a surface of the text alone gives on a validation split."""

    surface: str
    """BY_NGRAMS or BY_LENGTH of `metrics`."""
    trials: Mapping[str, NDArray[np.float64]]
    """Metric -> its trials."""


class VerseEvaluation(ABC):
    """Judges a model at a task on verses."""

    def __init__(self, context: TaskContext) -> None:
        self.curves_of, self.tokenizer = context.curves_of, context.tokenizer

    @abstractmethod
    def judge(self, model: Model, *, with_training: bool = True) -> Iterable[Judgement]:
        """Return the model's measures and scores of each split, that of training data among them or not."""

    @abstractmethod
    def guess(self, tokenizer: Tokenizer) -> Iterable[Guesses]:
        """Return what the surfaces of the text give on each validation split."""

    def __call__(self, model: Model) -> Findings:
        """Return the measures on validation splits, and the scores on all."""
        found = Findings(curves_of=self.curves_of)
        for judgement in self.judge(model):
            found.scores.setdefault(judgement.split, {}).update(judgement.scores)
            for answer in judgement.answers if judgement.split != metrics.TRAIN_SUBSET else []:
                found.metrics.update(answer.measures())
        return found

    def on_validation(self, model: Model) -> dict[str, float]:
        """Return the measures on validation splits, without asking anything of training data."""
        answers = (answer for judgement in self.judge(model, with_training=False) for answer in judgement.answers)
        return {name: value for answer in answers for name, value in answer.measures().items()}

    def on_surface(self) -> dict[str, float]:
        """Return the measures on validation splits without any model, by their names with the surface as a suffix."""
        guesses = self.guess(self.tokenizer) if self.tokenizer else ()
        return {
            metrics.by_surface(metric, surface): float(trials.mean())
            for surface, measures in guesses
            for metric, trials in measures.items()
        }
