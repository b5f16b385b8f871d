"""Whether the model foresees the connectives that a text argues with."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import BatchConfig, ConnectivesConfig
from genesis_ds.corpus.words import word_pattern
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import VALIDATION_TIERS
from genesis_ds.data.word_spans import number_words
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.bits_by_part import batches_of
from genesis_ds.tasks.lm import evaluation_windows


class Connectives(Hook):
    """Measures the share of a language's connectives whose every token is the likeliest after its past.

    Those in the validation windows count, without the ones that a window's border cuts. All ranks make the same number
    of forward calls.
    """

    def __init__(
        self,
        calls: ModelCalls,
        evaluating: Callable[[], AbstractContextManager[None]],
        *,
        text: Text,
        config: ConnectivesConfig,
        every: int,
        batch: BatchConfig,
    ) -> None:
        self.calls, self.evaluating, self.every, self.rows = calls, evaluating, every, batch.micro_batch_size
        self.windows: dict[tuple[str, str], Batch] = {}
        """Those that have connectives. words [B, T]: the one that each target is part of, or -1."""
        for split in VALIDATION_TIERS:
            for language, words in config.words.items():
                if language in text.token_set.languages:
                    stream = text.token_set.stream(split, language)
                    numbers = number_words(stream, word_pattern(words), text.tokenizer)
                    of_text = evaluation_windows(stream, batch.seq_len, config.max_windows)
                    of_words = evaluation_windows(replace(stream, tokens=numbers), batch.seq_len, config.max_windows)
                    whole = torch.from_numpy(_without_cut_words(of_words.labels["targets"].numpy(), numbers))
                    if (rows := (whole >= 0).any(1)).any():
                        labels = {"targets": of_text.labels["targets"][rows], "words": whole[rows]}
                        self.windows[split, language] = Batch({"tokens": of_text.inputs["tokens"][rows]}, labels)

    @classmethod
    def build(cls, context: HookContext) -> "Connectives | None":
        """Return the hook of a run of text where it is asked for."""
        run, engine = context.run, context.engine
        if context.text is None or not run.intervals.connectives:
            return None
        return cls(
            ModelCalls(engine.output, engine.ranks, engine.device),
            engine.evaluating,
            text=context.text,
            config=run.config.connectives,
            every=run.intervals.connectives,
            batch=run.config.batch,
        )

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            with self.evaluating():
                for (split, language), windows in self.windows.items():
                    name, words = metrics.connectives(split, language), windows.labels["words"]
                    n = len(words[words >= 0].unique())
                    (foreseen,) = self.calls.sums(LM, batches_of(windows, self.rows), _foreseen)
                    record.metrics |= {name: foreseen / n, name + metrics.TRIALS: n}


def _foreseen(logits: Tensor, batch: Batch) -> list[float]:
    """Return of how many words every target is the likeliest token: none where it is IGNORE."""
    words, inside = batch.labels["words"], batch.labels["words"] >= 0
    wrong = words[inside & (logits.argmax(-1) != batch.labels["targets"])]
    return [len(words[inside].unique()) - len(wrong.unique())]


def _without_cut_words(words: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the words of windows [B, T] without those that a border cuts. numbers: the word of each token."""
    lengths = np.bincount(numbers[numbers >= 0])
    whole = np.full_like(words, -1)
    for row, found in enumerate(words):
        present, counts = np.unique(found[found >= 0], return_counts=True)
        kept = np.isin(found, present[counts == lengths[present]])
        whole[row, kept] = found[kept]
    return whole
