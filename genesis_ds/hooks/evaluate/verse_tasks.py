"""Coherence, cross-references and paraphrases on the validation splits."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.analysis.grokking import Point
from genesis_ds.config import BatchConfig
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS, TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.verse_calls import VerseCalls
from genesis_ds.tasks.base import Unavailable
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.retrieval import (
    RECALL_AT,
    Retrieval,
    cross_reference_retrieval,
    paraphrase_retrievals,
    trained_links,
)
from genesis_ds.tasks.verse_task import Examples, Packer

VERSES_OF_A_PAIR = 2


@dataclass(frozen=True)
class Question:
    """Verses to retrieve."""

    split: str
    task: str
    among: str
    """A language, or two: en-es."""
    packer: Packer
    retrieval: Retrieval
    measures: Mapping[str, Callable[[NDArray], NDArray]]
    """Name -> ranks of the targets to values."""
    references: Mapping[str, NDArray[np.float64]]
    """Suffix of a name -> ranks [q] to put beside the model's."""

    @property
    def name(self) -> str:
        """Of the measures: val/val_book/paraphrase/en-es."""
        return metrics.judged(self.split, self.task, self.among)


@dataclass(frozen=True)
class Answer:
    """What one measure gave."""

    metric: str
    trials: NDArray[np.float64]
    """[n], of which the measure is the mean."""
    beside: Mapping[str, float]
    """Suffix of the metric's name -> what to compare the mean with."""


@dataclass(frozen=True)
class Judgement:
    """All that was found of one task on one split."""

    split: str
    answers: list[Answer]
    scores: dict[str, tuple[float, float]]
    """Curve (coherence/en, paraphrase/en-es) -> loss in nats and accuracy.

    Of pairs: cross-entropy, share that is right. Of retrieval: mean logarithm of the target's rank, share at rank 1."""


class EvaluateTasks(Hook):
    """Accuracy of coherence, mean reciprocal rank and recall@10 of cross-references, retrieval@1 of paraphrases.

    Each with its chance level and number of trials. What is asked is the same at every evaluation. Where a split's
    curves are wanted, the same is asked of a fixed part of the training verses.
    """

    def __init__(
        self,
        outputs: VerseCalls,
        evaluating: Callable[[], AbstractContextManager],
        tasks: Sequence[str],
        token_set: TokenSet,
        links: CrossReferences,
        schedule: EvaluationSchedule,
        max_verses: int,
        curves_of: str | None,
        batch: BatchConfig,
    ) -> None:
        """outputs: what the task's head says of each example. curves_of: the split whose curves are wanted."""
        self.outputs, self.evaluating, self.schedule, self.curves_of = outputs, evaluating, schedule, curves_of
        self.pairs: dict[str, tuple[Packer, Examples]] = {}
        self.questions: list[Question] = []
        shape = batch.seq_len, batch.micro_batch_size, max_verses
        tiers = {tier: tier for tier in VALIDATION_TIERS} | ({metrics.TRAIN_SUBSET: "train"} if curves_of else {})
        for split, tier in tiers.items():
            verses = VerseTable(token_set, [tier], batch.seq_len)
            if "coherence" in tasks and (pairs := _pairs(verses, *shape)):
                self.pairs[split] = pairs
            if "cross_reference" in tasks:
                among = verses if tier == "train" else VerseTable(token_set, KEPT_TIERS, batch.seq_len)
                self.questions += _cross_references(split, verses, among, token_set, links, *shape)
            if "paraphrase" in tasks:
                self.questions += _paraphrases(split, verses, *shape)

    def on_step(self, record: StepRecord) -> None:
        if not self.schedule.due(record):
            return
        scores: dict[str, dict[str, tuple[float, float]]] = {}
        for judgement in self.judge():
            scores.setdefault(judgement.split, {}).update(judgement.scores)
            for answer in judgement.answers if judgement.split != metrics.TRAIN_SUBSET else []:
                record.metrics[answer.metric] = float(answer.trials.mean())
                record.metrics |= {answer.metric + suffix: value for suffix, value in answer.beside.items()}
                record.metrics[answer.metric + metrics.TRIALS] = len(answer.trials)
        validation = scores.get(self.curves_of or "", {})
        for curve, (train_loss, train_accuracy) in scores.get(metrics.TRAIN_SUBSET, {}).items():
            if curve in validation:
                val_loss, val_accuracy = validation[curve]
                values = train_loss, val_loss, train_accuracy, val_accuracy, record.learning_rate
                record.curves[curve] = Point(record.global_step, *values)

    def judge(self) -> list[Judgement]:
        """The model as it is, on every split. Every rank calls it."""
        with self.evaluating():
            pairs = [self._judge_pairs(split, *self.pairs[split]) for split in self.pairs]
            of_one = itertools.groupby(self.questions, key=lambda question: (question.split, question.task))
            return pairs + [judgement for _, questions in of_one for judgement in self._ask(list(questions))]

    def _judge_pairs(self, split: str, packer: Packer, examples: Examples) -> Judgement:
        logits = self.outputs("coherence", packer, examples)
        follows = examples.kinds == 0
        right = (logits > 0) == follows
        losses = np.logaddexp(0, np.where(follows, -logits, logits))
        accuracy = metrics.judged(split, "coherence", "accuracy")
        of_kind = {f"{accuracy}/{name}": right[examples.kinds == kind] for kind, name in enumerate(Coherence.kinds)}
        trials = {accuracy: right, **of_kind}
        answers = [Answer(name, values, {metrics.CHANCE: 0.5}) for name, values in trials.items() if len(values)]
        languages = packer.verses.languages[examples.verses[:, 0]]
        scores = {
            f"coherence/{label}": (float(losses[languages == i].mean()), float(right[languages == i].mean()))
            for i, label in enumerate(packer.verses.labels)
            if (languages == i).any()
        }
        return Judgement(split, answers, scores)

    def _ask(self, questions: list[Question]) -> list[Judgement]:
        """Questions of one task and split, so on the same table: each verse is embedded once for all of them."""
        verses = np.unique(np.concatenate([question.retrieval.verses for question in questions]))
        alone = Examples(verses[:, None], np.zeros(len(verses), np.int64))
        embeddings = self.outputs(questions[0].task, questions[0].packer, alone)[:, 0]
        return [self._rank(question, embeddings[np.isin(verses, question.retrieval.verses)]) for question in questions]

    def _rank(self, question: Question, embeddings: NDArray[np.float32]) -> Judgement:
        retrieval = question.retrieval
        ranks = retrieval.ranks(embeddings)
        answers = []
        for name, measure in question.measures.items():
            trials = {suffix: measure(others) for suffix, others in question.references.items()}
            trials[metrics.CHANCE] = np.array([measure(possible).mean() for possible in retrieval.chance_ranks()])
            beside = {suffix: float(retrieval.per_verse(values).mean()) for suffix, values in trials.items()}
            answers.append(Answer(f"{question.name}/{name}", retrieval.per_verse(measure(ranks)), beside))
        score = float(np.log(ranks).mean()), float((ranks == 1).mean())
        return Judgement(question.split, answers, {f"{question.task}/{question.among}": score})


def _pairs(verses: VerseTable, seq_len: int, rows: int, limit: int) -> tuple[Packer, Examples] | None:
    """Coherence pairs of the verses, as many as there are verses or as the limit allows; those that fit in a pack."""
    try:
        task = Coherence(verses, seq_len, rows, seed=0)
    except Unavailable:
        return None
    drawn = task.draw("evaluation", min(len(verses), limit or len(verses)) // VERSES_OF_A_PAIR)
    fitting = [number for pack in task.packer.pack(drawn) for number in pack.numbers.tolist()]
    return (task.packer, Examples(drawn.verses[fitting], drawn.kinds[fitting])) if fitting else None


def _cross_references(
    split: str,
    verses: VerseTable,
    among: VerseTable,
    token_set: TokenSet,
    links: CrossReferences,
    seq_len: int,
    rows: int,
    limit: int,
) -> list[Question]:
    retrieval = cross_reference_retrieval(among, verses.verse_ids, links, limit)
    if not len(retrieval.queries):
        return []
    train = VerseTable(token_set, ["train"], seq_len).verse_ids
    by_links = retrieval.ranks_of(trained_links(among, train, links))
    measures: dict[str, Callable[[NDArray], NDArray]] = {
        "mrr": lambda ranks: 1 / ranks,
        f"recall_at_{RECALL_AT}": lambda ranks: ranks <= RECALL_AT,
    }
    packer, references = Packer(among, seq_len, rows), {metrics.BY_LINKS: by_links}
    language = token_set.languages[0]
    return [Question(split, "cross_reference", language, packer, retrieval, measures, references)]


def _paraphrases(split: str, verses: VerseTable, seq_len: int, rows: int, limit: int) -> list[Question]:
    packer = Packer(verses, seq_len, rows)
    measures: dict[str, Callable[[NDArray], NDArray]] = {"retrieval_at_1": lambda ranks: ranks <= 1}
    return [
        Question(split, "paraphrase", pair, packer, retrieval, measures, {})
        for pair, retrieval in paraphrase_retrievals(verses, limit).items()
    ]
