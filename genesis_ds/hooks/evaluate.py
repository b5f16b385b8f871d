"""Bits per byte on the validation splits."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.config import EvaluationConfig
from genesis_ds.data.tasks.base import Batch
from genesis_ds.data.tasks.lm import evaluation_windows
from genesis_ds.data.token_set import VALIDATION_TIERS, TokenSet
from genesis_ds.engine.distributed import Ranks, sum_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.model.transformer import IGNORE


class Evaluate(Hook):
    """Cross-entropy of every language in every validation split, in bits per UTF-8 byte.

    The windows are the same at every evaluation and are shared out over the ranks; every rank makes the same number
    of forward calls, as ZeRO-3 needs, with all-ignored rows where the windows do not divide.
    """

    def __init__(
        self,
        summed_loss: Callable[[Tensor, Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager],
        token_set: TokenSet,
        config: EvaluationConfig,
        seq_len: int,
        micro_batch_size: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """summed_loss: tokens and targets [B, T] -> cross-entropy in nats, summed over targets != IGNORE."""
        self.summed_loss, self.evaluating = summed_loss, evaluating
        self.every, self.ranks, self.device = config.every, ranks, device
        self.micro_batch_size = micro_batch_size
        self.byte_lengths = token_set.byte_lengths
        self.windows = {}
        for split in VALIDATION_TIERS:
            for language in token_set.languages:
                batch = evaluation_windows(token_set.stream(split, language), seq_len, config.max_windows)
                if batch.n_tokens:
                    self.windows[split, language] = batch

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            with self.evaluating():
                for (split, language), batch in self.windows.items():
                    record.metrics[metrics.bits_per_byte(split, language)] = self._bits_per_byte(batch)

    def _bits_per_byte(self, batch: Batch) -> float:
        nats = sum(
            float(self.summed_loss(tokens.to(self.device), targets.to(self.device)))
            for tokens, targets in self._share(batch)
        )
        (total,) = sum_over_ranks([nats], self.device)
        targets = batch.inputs["targets"].numpy()
        return total / math.log(2) / int(self.byte_lengths[targets[targets != IGNORE]].sum())

    def _share(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        stride = self.micro_batch_size * self.ranks.world_size
        n = len(batch.inputs["tokens"])
        for start in range(0, n, stride):
            first = start + self.ranks.rank * self.micro_batch_size
            rows = np.arange(first, first + min(self.micro_batch_size, n))
            tokens, targets = (batch.inputs[key][rows % n] for key in ("tokens", "targets"))
            targets[torch.from_numpy(rows >= n)] = IGNORE
            yield tokens, targets
