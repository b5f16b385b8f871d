"""Memorisation: whether the model gives training verses back word for word, and whether it knows them in others."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.memorisation import auc_interval, mean_interval, membership_auc
from genesis_ds.corpus.verses import Translation
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.data.token_set import TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.disk import warn
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.occasions import BesideStep0, Occasions
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch, Model
from genesis_ds.tasks.bits_by_part import rows_of_batches
from genesis_ds.tasks.lm import as_batch, cross_entropy
from genesis_ds.tokenizer import Tokenizer

PREFIX, MOST, LEAST = 16, 32, 8
"""Tokens that are given of a verse, and the most and the fewest that have to follow."""
FEWEST = 8
"""Verses of training, and of validation, with which a language is measured."""
Parts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Training verses and validation verses, each [n, width] token ids, IGNORE behind a shorter one."""


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
        verses: Mapping[str, Parts],
        *,
        rewordings: Mapping[str, Parts],
        schedule: EvaluationSchedule,
        rows: int,
        averaged: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(False),
    ) -> None:
        """verses: language -> its verses, as `choose_verses` gives them. rewordings: as `reword` gives them.

        schedule: of language modelling. rows: of a batch. averaged: as in EvaluateTasks.
        """
        super().__init__()
        self.averaged = averaged
        self.model, self.evaluating, self.schedule, self.rows = model, evaluating, schedule, rows
        self.verses, self.rewordings = verses, rewordings
        parts = [part for group in (verses, rewordings) for of_language in group.values() for part in of_language]
        self.identity = zlib.crc32(np.concatenate(parts).tobytes())
        self.occasions = Occasions(LM)

    @classmethod
    def build(cls, context: HookContext) -> "Memorisation | None":
        """Return the hook of a run that learns to write text, if any language has verses enough."""
        run, engine = context.run, context.engine
        n, batch, text = run.config.evaluation.memorisation_verses, run.config.batch, context.text
        if text is None or LM not in run.tasks or not n:
            return None
        split = run.config.grokking.split
        verses = choose_verses(text.token_set, split, n, batch.seq_len)
        left_out = [language for language in text.token_set.languages if language not in verses]
        if left_out and engine.ranks.is_main:
            warn(
                f"without memorisation of {', '.join(left_out)}: train or {split} has fewer than {FEWEST} verses of "
                f"{PREFIX + LEAST} to {batch.seq_len} tokens"
            )
        if not verses:
            return None
        others = {language: each for language, each in text.rewordings.items() if language in verses}
        return cls(
            ModelCalls(engine.output, engine.ranks, engine.device),
            engine.evaluating,
            verses,
            rewordings=reword(others, text.token_set, split, n, batch.seq_len, tokenizer=text.tokenizer),
            schedule=context.schedules[LM],
            rows=batch.micro_batch_size * max(1, batch.seq_len // (PREFIX + MOST)),
            averaged=engine.averaged,
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
        with self.averaged() as there_is_one:
            of_average = self.measured() if there_is_one else {}
        record.metrics |= found | self.beside(found)
        record.metrics |= metrics.averaged(of_average)
        for curve, point in record.curves.items():
            task, language, *_ = curve.split("/")
            if task == LM and language in self.verses:
                share = found[metrics.memorised(language, metrics.EXTRACTED)]
                record.curves[curve] = replace(point, memorised_share=share)

    def measured(self) -> dict[str, float]:
        both = [*self.verses.values(), *self.rewordings.values()]
        asked = iter(self._ask([part for parts in both for part in parts]))
        of_words = {language: (next(asked), next(asked)) for language in self.verses}
        of_others = {language: (next(asked), next(asked)) for language in self.rewordings}
        found: dict[str, float] = {}
        for language, ((losses, known), (val_losses, val_known)) in of_words.items():
            measured = {
                metrics.EXTRACTED: float(known.mean()),
                metrics.EXTRACTED + metrics.TRIALS: len(known),
                metrics.EXTRACTED_VALIDATION: float(val_known.mean()),
                **_membership(metrics.MEMBERSHIP, losses, val_losses),
            }
            if language in of_others:
                there, val_there = (part[:, 0] != IGNORE for part in self.rewordings[language])
                (others, _), (val_others, _) = of_others[language]
                measured |= _in_other_words((losses, others, there), (val_losses, val_others, val_there))
            found |= {metrics.memorised(language, name): value for name, value in measured.items()}
        return found

    def _ask(self, parts: Sequence[NDArray[np.int64]]) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Return losses_and_known of each part, whose verses fill batches together."""
        with self.evaluating():
            losses, known = losses_and_known(self.model, np.concatenate(parts), self.rows)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return list(zip(np.split(losses, ends), np.split(known, ends), strict=True))


def _membership(name: str, losses: NDArray[np.float64], val_losses: NDArray[np.float64]) -> dict[str, float]:
    auc = membership_auc(losses, val_losses)
    low, high = auc_interval(auc, len(losses), len(val_losses))
    return {name: auc, name + metrics.LOW: low, name + metrics.HIGH: high}


Wordings = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
"""Of n verses: the losses in their own words, those in others, and which of them the other translation has."""


def _in_other_words(train: Wordings, validation: Wordings) -> dict[str, float]:
    """Return what the losses of training and validation verses say, in their own words and in others."""
    own, other, there = train
    val_own, val_other, val_there = validation
    gaps, val_gaps = (other - own)[there], (val_other - val_own)[val_there]
    low, high = mean_interval(gaps)
    return {
        metrics.WORDING_GAP: float(gaps.mean()),
        metrics.WORDING_GAP + metrics.LOW: low,
        metrics.WORDING_GAP + metrics.HIGH: high,
        metrics.WORDING_GAP + metrics.TRIALS: len(gaps),
        metrics.WORDING_GAP_VALIDATION: float(val_gaps.mean()),
        **_membership(metrics.REWORDED, other[there], val_other[val_there]),
    }


def choose_verses(token_set: TokenSet, split: str, n: int, longest: int) -> dict[str, Parts]:
    """Return at most n training verses and n of a validation split, of each language that has FEWEST of both.

    Always the same ones. The width is PREFIX + MOST, or the longest row that the model is given if that is less.
    """
    chosen = {}
    tables = _tables(token_set, split, longest)
    for language in token_set.languages:
        train, validation = (
            _first_tokens([table.tokens(row) for row in _rows(table, language, n)], longest) for table in tables
        )
        if min(len(train), len(validation)) >= FEWEST:
            chosen[language] = train, validation
    return chosen


def reword(
    rewordings: Mapping[str, Translation],
    token_set: TokenSet,
    split: str,
    n: int,
    longest: int,
    *,
    tokenizer: Tokenizer,
) -> dict[str, Parts]:
    """Return the verses of `choose_verses` as other translations have them, of each language with FEWEST of both parts.

    rewordings: language -> its other translation. A verse that it does not have, or too short, is IGNORE throughout.
    """
    found = {}
    tables = _tables(token_set, split, longest)
    for language, translation in rewordings.items():
        texts = dict(zip(translation.verse_ids.tolist(), translation.texts, strict=True))
        train, validation = (
            _first_tokens(
                tokenizer.encode_many(
                    [texts.get(verse, "") for verse in table.verse_ids[_rows(table, language, n)].tolist()]
                ),
                longest,
            )
            for table in tables
        )
        if min((part[:, 0] != IGNORE).sum() for part in (train, validation)) >= FEWEST:
            found[language] = train, validation
    return found


def _tables(token_set: TokenSet, split: str, longest: int) -> list[VerseTable]:
    return [VerseTable(token_set, [tier], longest) for tier in ("train", split)]


def _rows(table: VerseTable, language: str, n: int) -> list[int]:
    """Return n verses of a language that are long enough."""
    is_of = table.languages == table.labels.index(language)
    (rows,) = np.nonzero(is_of & (table.lengths >= PREFIX + LEAST))
    chosen: list[int] = rows[keyed_permutation("memorisation", len(rows))[:n]].tolist()
    return chosen


def _first_tokens(verses: Sequence[NDArray[np.integer[Any]]], longest: int) -> NDArray[np.int64]:
    """Return the first tokens of verses, [n, width]; IGNORE throughout of one that is too short."""
    width = min(PREFIX + MOST, longest)
    tokens = np.full((len(verses), width), IGNORE, np.int64)
    for row, verse in zip(tokens, verses, strict=True):
        if len(verse) >= PREFIX + LEAST:
            row[: len(verse)] = verse[:width]
    return tokens


def losses_and_known(
    model: Model, verses: NDArray[np.int64], rows: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean loss in nats of each verse [n, width], 0 of one without tokens, and whether it is extracted."""
    n = len(verses)
    batches = [partial(_batch, verses, numbers) for numbers in rows_of_batches(n, rows)]

    def measure(logits: Tensor, batch: Batch) -> list[float]:
        targets = batch.labels["targets"]
        counted = targets != IGNORE
        losses = cross_entropy(logits, targets, "none").view(targets.shape).sum(1) / counted.sum(1).clamp(min=1)
        known = ((logits.argmax(-1) == targets) | ~counted)[:, PREFIX - 1 :].all(1)
        values = torch.zeros(2, n + 1, dtype=torch.float64, device=losses.device)
        values[:, batch.labels["numbers"]] = torch.stack([losses, known]).double()
        found: list[float] = values[:, :n].flatten().tolist()
        return found

    losses, known = np.array(model.sums(LM, batches, measure)).reshape(2, n)
    return losses, known > 0


def _batch(verses: NDArray[np.int64], numbers: NDArray[np.int64]) -> Batch:
    """Return the batch of these verses; those from n on fill it up and have the number n."""
    n = len(verses)
    batch = as_batch(verses[numbers % n])
    batch.inputs["tokens"].clamp_(min=0)
    del batch.inputs["targets"]  # the likeliest tokens are read from the logits as well
    batch.labels["numbers"] = torch.from_numpy(numbers.clip(max=n))
    return batch
