"""Loss and accuracy on the equations of modular arithmetic."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.analysis.grokking import Point
from genesis_ds.data.arithmetic import ArithmeticTable, Equations
from genesis_ds.engine.distributed import Ranks, sum_over_ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.evaluate.language_modelling import rows_of_rank
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM

TASK = "arithmetic"
CURVE = f"{LM}/{TASK}"


class EvaluateArithmetic(Hook):
    """Cross-entropy in nats and accuracy of the answers, on training and on validation equations.

    The equations are the same at every evaluation and are shared out over the ranks; every rank makes the same number
    of forward calls, as ZeRO-3 needs.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager],
        table: ArithmeticTable,
        schedule: EvaluationSchedule,
        max_windows: int,
        micro_batch_size: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """logits: tokens [B, T] -> logits [B, T, V]. max_windows: equations of each part; 0: all of them."""
        self.logits, self.evaluating, self.schedule = logits, evaluating, schedule
        self.table, self.max_windows = table, max_windows
        self.micro_batch_size, self.ranks, self.device = micro_batch_size, ranks, device

    def on_step(self, record: StepRecord) -> None:
        if self.schedule.due(record):
            with self.evaluating():
                train = self._judge(metrics.TRAIN_SUBSET, self.table.train, record)
                validation = self._judge("validation", self.table.validation, record)
            (train_loss, train_accuracy), (val_loss, val_accuracy) = train, validation
            measured = train_loss, val_loss, train_accuracy, val_accuracy
            record.curves[CURVE] = Point(record.global_step, *measured, record.learning_rate)

    def _judge(self, split: str, equations: Equations, record: StepRecord) -> tuple[float, float]:
        """Loss and accuracy on a part of the table: on its first equations, which stand in random order."""
        few = slice(self.max_windows or None)
        tokens, answers = torch.from_numpy(equations.tokens[few]), torch.from_numpy(equations.answers[few])
        n, nats, right = len(answers), 0.0, 0.0
        for rows in rows_of_rank(n, self.micro_batch_size, self.ranks):
            logits = self.logits(tokens[rows % n].to(self.device))[:, -1].float()
            logits, expected = logits[: np.count_nonzero(rows < n)], answers[rows[rows < n]].to(self.device)
            nats += float(F.cross_entropy(logits, expected, reduction="sum"))
            right += int((logits.argmax(-1) == expected).sum())
        nats, right = sum_over_ranks([nats, right], self.device)
        loss, accuracy = (metrics.judged(split, TASK, measure) for measure in ("loss", "accuracy"))
        record.metrics |= {
            loss: nats / n,
            accuracy: right / n,
            accuracy + metrics.CHANCE: 1 / equations.modulus,
            accuracy + metrics.TRIALS: n,
        }
        return nats / n, right / n
