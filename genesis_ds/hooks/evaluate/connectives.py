"""Whether the model foresees the connectives that a text argues with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import BatchConfig, ConnectivesConfig
from genesis_ds.corpus.words import word_pattern
from genesis_ds.data.token_set import VALIDATION_TIERS, TokenSet
from genesis_ds.data.word_spans import number_words
from genesis_ds.engine.distributed import add_over_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.lm import evaluation_windows
from genesis_ds.tokenizer import Tokenizer


class Windows(NamedTuple):
    """Windows of text, each with a connective."""

    tokens: Tensor
    """[B, T]."""
    targets: Tensor
    """[B, T]."""
    words: NDArray[np.int64]
    """[B, T]: the connective that each target is part of, or -1."""


class Connectives(Hook):
    """Measures the share of a language's connectives whose every token is the likeliest after its past.

    Those in the validation windows count, without the ones that a window's border cuts. All ranks make the same number
    of forward calls.
    """

    def __init__(
        self,
        *,
        logits: Callable[[Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager[None]],
        token_set: TokenSet,
        tokenizer: Tokenizer,
        config: ConnectivesConfig,
        every: int,
        batch: BatchConfig,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """logits: token ids [B, T] -> logits [B, T, V]."""
        self.logits, self.evaluating, self.every = logits, evaluating, every
        self.micro_batch_size, self.ranks, self.device = batch.micro_batch_size, ranks, device
        self.windows: dict[tuple[str, str], Windows] = {}
        for split in VALIDATION_TIERS:
            for language, words in config.words.items():
                if language in token_set.languages:
                    stream = token_set.stream(split, language)
                    numbers = number_words(stream, word_pattern(words), tokenizer)
                    of_text = evaluation_windows(stream, batch.seq_len, config.max_windows)
                    of_words = evaluation_windows(replace(stream, tokens=numbers), batch.seq_len, config.max_windows)
                    words_of_targets = _without_cut_words(of_words.labels["targets"].numpy(), numbers)
                    rows = (words_of_targets >= 0).any(1)
                    if rows.any():
                        chosen = torch.from_numpy(rows)
                        tokens, targets = of_text.inputs["tokens"][chosen], of_text.labels["targets"][chosen]
                        self.windows[split, language] = Windows(tokens, targets, words_of_targets[rows])

    @classmethod
    def build(cls, context: HookContext) -> "Connectives | None":
        """Return the hook of a run of text where it is asked for."""
        run, engine = context.run, context.engine
        if context.text is None or not run.intervals.connectives:
            return None
        return cls(
            logits=partial(engine.output, LM),
            evaluating=engine.evaluating,
            token_set=context.text.token_set,
            tokenizer=context.text.tokenizer,
            config=run.config.connectives,
            every=run.intervals.connectives,
            batch=run.config.batch,
            ranks=engine.ranks,
            device=engine.device,
        )

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            with self.evaluating():
                for (split, language), windows in self.windows.items():
                    name = metrics.connectives(split, language)
                    foreseen = _foreseen_words(windows.words, self._are_likeliest(windows.tokens, windows.targets))
                    record.metrics[name] = float(foreseen.mean())
                    record.metrics[name + metrics.TRIALS] = len(foreseen)

    def _are_likeliest(self, tokens: Tensor, targets: Tensor) -> NDArray[np.bool_]:
        """Return which targets are the likeliest token, bool [B, T], the same on every rank."""
        right = torch.zeros(targets.shape, dtype=torch.int32, device=self.device)
        for rows in _rows_of_rank(len(tokens), self.micro_batch_size, self.ranks):
            given, wanted = (windows[rows % len(tokens)].to(self.device) for windows in (tokens, targets))
            likeliest = self.logits(given).argmax(-1)
            n_real = int((rows < len(tokens)).sum())
            right[rows[:n_real]] = (likeliest == wanted)[:n_real].int()
        add_over_ranks(right)
        return right.cpu().numpy() > 0


def _rows_of_rank(n: int, micro_batch_size: int, ranks: Ranks) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of this rank's micro-batches, as many on every rank; rows from n on are there to fill them up."""
    for start in range(0, n, micro_batch_size * ranks.world_size):
        first = start + ranks.rank * micro_batch_size
        yield np.arange(first, first + min(micro_batch_size, n))


def _without_cut_words(words: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the words of windows [B, T] without those that a border cuts. numbers: the word of each token."""
    lengths = np.bincount(numbers[numbers >= 0])
    whole = np.full_like(words, -1)
    for row, found in enumerate(words):
        present, counts = np.unique(found[found >= 0], return_counts=True)
        kept = np.isin(found, present[counts == lengths[present]])
        whole[row, kept] = found[kept]
    return whole


def _foreseen_words(words: NDArray[np.int64], right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each word whether all of its targets are right."""
    inside = words >= 0
    _, word = np.unique(words[inside], return_inverse=True)
    wrong = np.bincount(word, ~right[inside])
    right_words: NDArray[np.bool_] = wrong == 0
    return right_words
