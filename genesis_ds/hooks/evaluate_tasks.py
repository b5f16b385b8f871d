"""Coherence, cross-references and paraphrases on the validation splits."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import BatchConfig, EvaluationConfig
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.retrieval import (
    RECALL_AT,
    Retrieval,
    cross_reference_retrieval,
    paraphrase_retrievals,
    trained_links,
)
from genesis_ds.data.tasks.base import Unavailable
from genesis_ds.data.tasks.coherence import Coherence
from genesis_ds.data.tasks.verse_task import Examples, Packer
from genesis_ds.data.token_set import KEPT_TIERS, VALIDATION_TIERS, TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine.distributed import Ranks, add_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord

VERSES_OF_A_PAIR = 2


@dataclass(frozen=True)
class Question:
    """Verses to retrieve."""

    task: str
    name: str
    """Of the measures: val/val_book/paraphrase/en-es."""
    packer: Packer
    retrieval: Retrieval
    measures: Mapping[str, Callable[[NDArray], NDArray]]
    """Name -> ranks of the targets to values."""
    references: Mapping[str, NDArray[np.float64]]
    """Suffix of a name -> ranks [q] to put beside the model's."""


@dataclass(frozen=True)
class Answer:
    """What one measure gave."""

    metric: str
    trials: NDArray[np.float64]
    """[n], of which the measure is the mean."""
    beside: Mapping[str, float]
    """Suffix of the metric's name -> what to compare the mean with."""


class EvaluateTasks(Hook):
    """Accuracy of coherence, mean reciprocal rank and recall@10 of cross-references, retrieval@1 of paraphrases.

    Each with its chance level and number of trials. What is asked is the same at every evaluation. The packs of verses
    are shared out over the ranks; every rank makes the same number of forward calls, as ZeRO-3 needs.
    """

    def __init__(
        self,
        outputs: Callable[..., Tensor],
        evaluating: Callable[[], AbstractContextManager],
        tasks: Sequence[str],
        token_set: TokenSet,
        links: CrossReferences,
        config: EvaluationConfig,
        batch: BatchConfig,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """outputs: task, tokens, documents, examples -> what the task's head says of each example."""
        self.outputs, self.evaluating, self.every = outputs, evaluating, config.every
        self.ranks, self.device = ranks, device
        self.pairs: dict[str, tuple[Packer, Examples]] = {}
        self.questions: list[Question] = []
        shape, limit = (batch.seq_len, batch.micro_batch_size), config.max_verses
        for split in VALIDATION_TIERS:
            verses = VerseTable(token_set, [split], batch.seq_len)
            if "coherence" in tasks and (pairs := _pairs(verses, *shape, limit)):
                self.pairs[split] = pairs
            if "cross_reference" in tasks:
                self.questions += _cross_references(split, verses, token_set, links, *shape, limit)
            if "paraphrase" in tasks:
                self.questions += _paraphrases(split, verses, *shape, limit)

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            for answer in self.answers():
                record.metrics[answer.metric] = float(answer.trials.mean())
                record.metrics |= {answer.metric + suffix: value for suffix, value in answer.beside.items()}
                record.metrics[answer.metric + metrics.TRIALS] = len(answer.trials)

    def answers(self) -> list[Answer]:
        """All measures of the model as it is. Every rank calls it."""
        with self.evaluating():
            pairs = [answer for split in self.pairs for answer in self._judge_pairs(split, *self.pairs[split])]
            return pairs + [answer for question in self.questions for answer in self._ask(question)]

    def _judge_pairs(self, split: str, packer: Packer, examples: Examples) -> list[Answer]:
        logits = self._outputs("coherence", packer, examples)
        right = (logits > 0) == (examples.kinds == 0)
        accuracy = metrics.judged(split, "coherence", "accuracy")
        of_kind = {f"{accuracy}/{name}": right[examples.kinds == kind] for kind, name in enumerate(Coherence.kinds)}
        by_chance = {metrics.CHANCE: 0.5}
        return [Answer(name, trials, by_chance) for name, trials in {accuracy: right, **of_kind}.items() if len(trials)]

    def _ask(self, question: Question) -> list[Answer]:
        retrieval = question.retrieval
        alone = Examples(retrieval.verses[:, None], np.zeros(len(retrieval.verses), np.int64))
        ranks = retrieval.ranks(self._outputs(question.task, question.packer, alone)[:, 0])
        answers = []
        for name, measure in question.measures.items():
            trials = {suffix: measure(others) for suffix, others in question.references.items()}
            trials[metrics.CHANCE] = np.array([measure(possible).mean() for possible in retrieval.chance_ranks()])
            beside = {suffix: float(retrieval.per_verse(values).mean()) for suffix, values in trials.items()}
            answers.append(Answer(f"{question.name}/{name}", retrieval.per_verse(measure(ranks)), beside))
        return answers

    def _outputs(self, task: str, packer: Packer, examples: Examples) -> NDArray[np.float32]:
        """The head's output for every example, in their order, on every rank."""
        packs = packer.pack(examples)
        collected: Tensor | None = None
        for start in range(0, len(packs), self.ranks.world_size):
            mine = start + self.ranks.rank
            batch = packer.collate([packs[min(mine, len(packs) - 1)]]).to(self.device)
            output = self.outputs(task, **batch.inputs)
            if collected is None:
                collected = torch.zeros(len(examples.kinds), *output.shape[1:], device=self.device)
            if mine < len(packs):
                collected[torch.from_numpy(packs[mine].numbers).to(self.device)] = output
        assert collected is not None, "there is at least one example"
        add_over_ranks(collected)
        return collected.cpu().numpy()


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
    split: str, verses: VerseTable, token_set: TokenSet, links: CrossReferences, seq_len: int, rows: int, limit: int
) -> list[Question]:
    whole = VerseTable(token_set, KEPT_TIERS, seq_len)
    retrieval = cross_reference_retrieval(whole, verses.verse_ids, links, limit)
    if not len(retrieval.queries):
        return []
    train = VerseTable(token_set, ["train"], seq_len).verse_ids
    by_links = retrieval.ranks_of(trained_links(whole, train, links))
    measures: dict[str, Callable[[NDArray], NDArray]] = {
        "mrr": lambda ranks: 1 / ranks,
        f"recall_at_{RECALL_AT}": lambda ranks: ranks <= RECALL_AT,
    }
    name = metrics.judged(split, "cross_reference", token_set.languages[0])
    packer = Packer(whole, seq_len, rows)
    return [Question("cross_reference", name, packer, retrieval, measures, {metrics.BY_LINKS: by_links})]


def _paraphrases(split: str, verses: VerseTable, seq_len: int, rows: int, limit: int) -> list[Question]:
    packer = Packer(verses, seq_len, rows)
    measures: dict[str, Callable[[NDArray], NDArray]] = {"retrieval_at_1": lambda ranks: ranks <= 1}
    return [
        Question("paraphrase", metrics.judged(split, "paraphrase", pair), packer, retrieval, measures, {})
        for pair, retrieval in paraphrase_retrievals(verses, limit).items()
    ]
