"""Evaluation of the tasks on triplets: find the right verse among many by its cosine to a query."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_ds import metrics
from genesis_ds.tasks.base import Model, Score, TaskContext
from genesis_ds.tasks.verse_evaluation import Answer, Guesses, Judgement, VerseEvaluation
from genesis_ds.tasks.verse_task import Examples, Packer
from genesis_ds.tokenizer import Tokenizer

POOL = 64
"""Verses among which one is to be found, in training and in validation, so that an untrained model has no gap."""
FEWEST = 16
"""Verses in such a search: nothing is measured among fewer."""
Numbers = NDArray[np.number[Any]]
Measure = Callable[[NDArray[np.float64]], NDArray[np.float64 | np.bool_]]
"""A function of the targets' ranks [q] to values [q]."""


@dataclass(frozen=True)
class Retrieval:
    """A search for q verses, each by a query, in one table of verses."""

    queries: NDArray[np.int64]
    """[q]: indices into the table."""
    targets: NDArray[np.int64]
    """[q]: index of the verse that each query should find."""
    candidates: list[NDArray[np.int64]]
    """For each query the verses that are ranked; its target is the first of them, the query itself is not there."""

    @property
    def verses(self) -> NDArray[np.int64]:
        """All verses that need an embedding, ascending."""
        return np.unique(np.concatenate([self.queries, self.targets, *self.candidates]))

    def ranks(self, embeddings: Numbers) -> NDArray[np.float64]:
        """Return the rank of each target by cosine, from 1, given unit vectors [len(verses), P]."""
        rows = dict(zip(self.verses.tolist(), embeddings, strict=True))
        return self.ranks_by(lambda query, others: np.stack([rows[i] for i in others.tolist()]) @ rows[int(query)])

    def ranks_of(self, scores: Numbers) -> NDArray[np.float64]:
        """Return the rank of each target, from 1, given one score for each verse of the table, whatever the query."""
        return self.ranks_by(lambda query, others: scores[others])

    def ranks_by(self, score: Callable[[np.int64, NDArray[np.int64]], Numbers]) -> NDArray[np.float64]:
        """Return the rank of each target, from 1, by a score of candidates for a query; ties share their mean rank."""
        found = np.empty(len(self.queries))
        for number, (query, target) in enumerate(zip(self.queries, self.targets, strict=True)):
            scores = score(query, self.candidates[number])
            own = scores[self.candidates[number] == target][0]
            found[number] = 1 + (scores > own).sum() + ((scores == own).sum() - 1) / 2
        return found

    def chance_ranks(self) -> Iterator[NDArray[np.float64]]:
        """Yield for each query the ranks of its target by chance, all equally likely: 1 to the number of candidates."""
        return (np.arange(1.0, len(others) + 1) for others in self.candidates)

    def per_verse(self, values: NDArray[np.float64 | np.bool_]) -> NDArray[np.float64]:
        """Return the mean of values [q] for each verse that is a query: one with several targets is one trial."""
        _, asking = np.unique(self.queries, return_inverse=True)
        return np.bincount(asking, values) / np.bincount(asking)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A retrieval that a task is judged by on one split, and its measures."""

    split: str
    task: str
    among: str
    """The language of the verses, or two of them: en-es."""
    packer: Packer
    retrieval: Retrieval
    measures: Mapping[str, Measure]
    """By name."""
    references: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Suffix of a metric's name -> ranks [q] to compare with the model's."""

    @property
    def name(self) -> str:
        """Beginning of the measures' names: val/val_book/paraphrase/en-es."""
        return metrics.judged(self.split, self.task, self.among)


def equal_pools(searches: Mapping[tuple[str, str], Retrieval]) -> dict[tuple[str, str], Retrieval]:
    """Return the searches (split, languages -> search), each among as many candidates as all of its languages have.

    A search with fewer candidates than FEWEST is left out.
    """
    sizes = {key: min(map(len, search.candidates), default=0) for key, search in searches.items()}
    kept = [key for key, size in sizes.items() if size >= FEWEST]
    smallest = {among: min(sizes[key] for key in kept if key[1] == among) for _, among in kept}
    return {
        (split, among): replace(search, candidates=[others[: smallest[among]] for others in search.candidates])
        for (split, among), search in searches.items()
        if (split, among) in kept
    }


class RetrievalRanks(VerseEvaluation):
    """Measures the ranks of the verses to find. A score: mean logarithm of the target's rank, share at rank 1."""

    def __init__(self, questions: Sequence[Question], context: TaskContext) -> None:
        """questions: of one task, those of a split together and on one table of verses."""
        super().__init__(context)
        self.questions = questions

    def judge(self, model: Model, *, with_training: bool = True) -> Iterator[Judgement]:
        for split, questions in itertools.groupby(self.questions, key=lambda question: question.split):
            if with_training or split != metrics.TRAIN_SUBSET:
                yield from _judge(model, list(questions))

    def guess(self, tokenizer: Tokenizer) -> Iterator[Guesses]:
        for question in self.questions:
            if question.split == metrics.TRAIN_SUBSET:
                continue
            for surface, ranks in _ranks_by_surface(question, tokenizer).items():
                trials = {
                    f"{question.name}/{name}": question.retrieval.per_verse(measure(ranks))
                    for name, measure in question.measures.items()
                }
                yield Guesses(surface, trials)


def _judge(model: Model, questions: list[Question]) -> list[Judgement]:
    """Return the judgements of questions on the same table, with each verse embedded once for all of them."""
    verses = np.unique(np.concatenate([question.retrieval.verses for question in questions]))
    alone = Examples(verses[:, None], np.zeros(len(verses), np.int64))
    embeddings = questions[0].packer.outputs(model, questions[0].task, alone)[:, 0]
    return [_rank(question, embeddings[np.isin(verses, question.retrieval.verses)]) for question in questions]


def _rank(question: Question, embeddings: NDArray[np.float32]) -> Judgement:
    retrieval = question.retrieval
    ranks = retrieval.ranks(embeddings)
    answers = []
    for name, measure in question.measures.items():
        trials = {suffix: measure(others) for suffix, others in question.references.items()}
        trials[metrics.CHANCE] = np.array([measure(possible).mean() for possible in retrieval.chance_ranks()])
        beside = {suffix: float(retrieval.per_verse(values).mean()) for suffix, values in trials.items()}
        answers.append(Answer(f"{question.name}/{name}", retrieval.per_verse(measure(ranks)), beside))
    score = Score(float(np.log(ranks).mean()), float((ranks == 1).mean()))
    return Judgement(question.split, answers, {f"{question.task}/{question.among}": score})


def _ranks_by_surface(question: Question, tokenizer: Tokenizer) -> dict[str, NDArray[np.float64]]:
    """Return the targets' ranks [q] by what each surface of the text says: n-grams in common, lengths alike."""
    from genesis_ds.analysis.surface import length_states, ngram_counts

    retrieval, verses = question.retrieval, question.retrieval.verses
    texts = question.packer.verses.texts(verses, tokenizer)
    counts, lengths = ngram_counts(texts), length_states(texts)
    queries, targets = (np.searchsorted(verses, of_side) for of_side in (retrieval.queries, retrieval.targets))
    longer = lengths[targets].mean(0) - lengths[queries].mean(0)  # one language may need more words than the other

    place = partial(np.searchsorted, verses)

    def by_ngrams(query: np.int64, others: NDArray[np.int64]) -> Numbers:
        cosines = counts[place(others)] @ counts[[place(query)]].T
        return np.asarray(cosines.toarray()).ravel()

    def by_length(query: np.int64, others: NDArray[np.int64]) -> Numbers:
        distances: Numbers = np.linalg.norm(lengths[place(others)] - lengths[place(query)] - longer, axis=1)
        return -distances

    scores = {metrics.BY_NGRAMS: by_ngrams, metrics.BY_LENGTH: by_length}
    return {surface: retrieval.ranks_by(score) for surface, score in scores.items()}
