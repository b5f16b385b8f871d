"""Memorisation: whether the model gives training verses back word for word."""

import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.memorisation import auc_interval, membership_auc
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.data.token_set import TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.occasions import BesideStep0, Occasions
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch, Model
from genesis_ds.tasks.lm import IGNORE, as_batch, cross_entropy, rows_of_batches

PREFIX, MOST, LEAST = 16, 32, 8
"""Tokens that are given of a verse, and the most and the fewest that have to follow."""
FEWEST = 8
"""Verses of training, and of validation, with which a language is measured."""


class Memorisation(BesideStep0):
    """Asks for training and validation verses by their first PREFIX tokens.

    The share of training verses that are extracted joins the points of the language's curves. A verse is extracted if
    each of its next tokens, at most MOST, is the likeliest after those before it, which is what greedy decoding gives
    (arXiv 2202.07646). Measured at the thorough evaluations of language modelling (`Occasions`), and before the first
    step.
    """

    def __init__(
        self,
        model: Model,
        evaluating: Callable[[], AbstractContextManager[None]],
        verses: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
        *,
        schedule: EvaluationSchedule,
        rows: int,
    ) -> None:
        """verses: language -> its training and validation verses, as `choose_verses` gives them.

        schedule: of language modelling. rows: of a batch.
        """
        super().__init__()
        self.model, self.evaluating, self.schedule, self.rows = model, evaluating, schedule, rows
        self.parts = [part for of_language in verses.values() for part in of_language]
        self.languages = list(verses)
        self.identity = zlib.crc32(np.concatenate(self.parts).tobytes())
        self.occasions = Occasions(LM)

    @classmethod
    def build(cls, context: HookContext) -> "Memorisation | None":
        """Return the hook of a run that learns to write text, if any language has verses enough."""
        run, engine = context.run, context.engine
        n, batch = run.config.evaluation.memorisation_verses, run.config.batch
        if context.text is None or LM not in run.tasks or not n:
            return None
        verses = choose_verses(context.text.token_set, run.config.grokking.split, n, batch.seq_len)
        if not verses:
            return None
        return cls(
            ModelCalls(engine.output, engine.ranks, engine.device),
            engine.evaluating,
            verses,
            schedule=context.schedules[LM],
            rows=batch.micro_batch_size * max(1, batch.seq_len // (PREFIX + MOST)),
        )

    def on_step(self, record: StepRecord) -> None:
        self.occasions.look(record)
        if self.schedule.due(record) and self.occasions.count(record):
            self._record(record)

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self.identity, "at_step_0": self.at_step_0, **self.occasions.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["identity"] == self.identity:  # else it is of other verses
            self.at_step_0 = state["at_step_0"]
            self.occasions.load_state_dict(state)

    def _record(self, record: StepRecord) -> None:
        found = self.measured()
        record.metrics |= found | self.beside(found)
        for curve, point in record.curves.items():
            task, language, *_ = curve.split("/")
            if task == LM and language in self.languages:
                share = found[metrics.memorised(language, metrics.EXTRACTED)]
                record.curves[curve] = replace(point, memorised_share=share)

    def measured(self) -> dict[str, float]:
        """Return the measures of every language, the same on every rank."""
        with self.evaluating():
            parts = [_ask(self.model, part, self.rows) for part in self.parts]
        found: dict[str, float] = {}
        for language, (losses, known), (val_losses, val_known) in zip(
            self.languages, parts[::2], parts[1::2], strict=True
        ):
            auc, n = membership_auc(losses, val_losses), (len(losses), len(val_losses))
            low, high = auc_interval(auc, *n)
            measured = {
                metrics.EXTRACTED: float(known.mean()),
                metrics.EXTRACTED + metrics.TRIALS: n[0],
                metrics.EXTRACTED_VALIDATION: float(val_known.mean()),
                metrics.MEMBERSHIP: auc,
                metrics.MEMBERSHIP + metrics.LOW: low,
                metrics.MEMBERSHIP + metrics.HIGH: high,
            }
            found |= {metrics.memorised(language, name): value for name, value in measured.items()}
        return found


def choose_verses(
    token_set: TokenSet, split: str, n: int, longest: int
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return at most n training verses and n of a validation split, of each language that has FEWEST of both.

    Both are [n, width] token ids, IGNORE behind a shorter verse; always the same ones. The width is PREFIX + MOST, or
    the longest row that the model is given if that is less.
    """
    width = min(PREFIX + MOST, longest)
    tables = [VerseTable(token_set, [tier], longest) for tier in ("train", split)]
    chosen = {}
    for number, language in enumerate(token_set.languages):
        train, validation = (_first_tokens(table, number, n, width) for table in tables)
        if min(len(train), len(validation)) >= FEWEST:
            chosen[language] = train, validation
    return chosen


def _first_tokens(table: VerseTable, language: int, n: int, width: int) -> NDArray[np.int64]:
    """Return the first tokens of n verses of a language that are long enough, [at most n, width]."""
    (rows,) = np.nonzero((table.languages == language) & (table.lengths >= PREFIX + LEAST))
    rows = rows[keyed_permutation("memorisation", len(rows))[:n]]
    tokens = np.full((len(rows), width), IGNORE, np.int64)
    for row, verse in zip(tokens, rows.tolist(), strict=True):
        ids = table.tokens(verse)[:width]
        row[: len(ids)] = ids
    return tokens


def _ask(model: Model, verses: NDArray[np.int64], rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean loss in nats of each verse, and whether it is extracted, both [n]."""
    n = len(verses)
    batches = [partial(_batch, verses, numbers) for numbers in rows_of_batches(n, rows)]

    def measure(logits: Tensor, batch: Batch) -> list[float]:
        targets = batch.labels["targets"]
        counted = targets != IGNORE
        losses = cross_entropy(logits, targets, "none").view(targets.shape).sum(1) / counted.sum(1)
        known = ((logits.argmax(-1) == targets) | ~counted)[:, PREFIX - 1 :].all(1)
        values = torch.zeros(2, n + 1, dtype=torch.float64, device=losses.device)
        values[:, batch.labels["numbers"]] = torch.stack([losses, known]).double()
        found: list[float] = values[:, :n].flatten().tolist()
        return found

    losses, known = np.array(model.sums(LM, batches, measure)).reshape(2, n)
    return losses, known


def _batch(verses: NDArray[np.int64], numbers: NDArray[np.int64]) -> Batch:
    """Return the batch of these verses; those from n on fill it up and have the number n."""
    n = len(verses)
    batch = as_batch(verses[numbers % n])
    batch.inputs["tokens"].clamp_(min=0)
    batch.labels["numbers"] = torch.from_numpy(numbers.clip(max=n))
    return batch
