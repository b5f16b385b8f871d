"""Bits per byte on the validation splits."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.grokking import Point
from genesis_ds.data.token_set import VALIDATION_TIERS, TokenSet
from genesis_ds.engine.distributed import Ranks, sum_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.model.transformer import IGNORE
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.lm import evaluation_windows


class Evaluate(Hook):
    """Cross-entropy of every language in every validation split, in bits per UTF-8 byte.

    Where a split's curves are wanted, also of a fixed part of the training text: a point of curve lm/<language> has
    both, in nats per token.

    The windows are the same at every evaluation and are shared out over the ranks; every rank makes the same number
    of forward calls, as ZeRO-3 needs, with all-ignored rows where the windows do not divide.
    """

    def __init__(
        self,
        summed_loss: Callable[[Tensor, Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager],
        token_set: TokenSet,
        schedule: EvaluationSchedule,
        max_windows: int,
        curves_of: str | None,
        seq_len: int,
        micro_batch_size: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """summed_loss: tokens and targets [B, T] -> cross-entropy in nats, summed over targets != IGNORE.

        curves_of: the validation split whose curves are wanted.
        """
        self.summed_loss, self.evaluating = summed_loss, evaluating
        self.schedule, self.curves_of, self.ranks, self.device = schedule, curves_of, ranks, device
        self.micro_batch_size = micro_batch_size
        self.byte_lengths = token_set.byte_lengths
        self.windows = {}
        tiers = {tier: tier for tier in VALIDATION_TIERS} | ({metrics.TRAIN_SUBSET: "train"} if curves_of else {})
        for split, tier in tiers.items():
            for language in token_set.languages:
                batch = evaluation_windows(token_set.stream(tier, language), seq_len, max_windows)
                if batch.n_tokens:
                    self.windows[split, language] = batch

    def on_step(self, record: StepRecord) -> None:
        if not self.schedule.due(record):
            return
        nats: dict[str, dict[str, float]] = {}
        with self.evaluating():
            for (split, language), batch in self.windows.items():
                targets = batch.inputs["targets"].numpy()
                targets = targets[targets != IGNORE]
                total = self._nats(batch)
                nats.setdefault(split, {})[language] = total / len(targets)
                n_bits = total / math.log(2)
                record.metrics[metrics.bits_per_byte(split, language)] = n_bits / int(self.byte_lengths[targets].sum())
        validation = nats.get(self.curves_of or "", {})
        for language, train_loss in nats.get(metrics.TRAIN_SUBSET, {}).items():
            if language in validation:
                point = Point(record.global_step, train_loss, validation[language], learning_rate=record.learning_rate)
                record.curves[f"{LM}/{language}"] = point

    def _nats(self, batch: Batch) -> float:
        nats = sum(
            float(self.summed_loss(tokens.to(self.device), targets.to(self.device)))
            for tokens, targets in self._share(batch)
        )
        (total,) = sum_over_ranks([nats], self.device)
        return total

    def _share(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(batch.inputs["tokens"])
        for rows in rows_of_rank(n, self.micro_batch_size, self.ranks):
            tokens, targets = (batch.inputs[key][rows % n] for key in ("tokens", "targets"))
            targets[torch.from_numpy(rows >= n)] = IGNORE
            yield tokens, targets


def rows_of_rank(n: int, micro_batch_size: int, ranks: Ranks) -> Iterator[NDArray[np.int64]]:
    """This rank's micro-batches of n rows, as many on every rank; rows from n on are there to fill them up."""
    for start in range(0, n, micro_batch_size * ranks.world_size):
        first = start + ranks.rank * micro_batch_size
        yield np.arange(first, first + min(micro_batch_size, n))
