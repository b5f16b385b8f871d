"""Modular arithmetic: the answer of a op b, where the decoder reads a, b and the sign =.

An epoch is one pass over the training equations in a permutation keyed by (seed, epoch), so that the equation at a
position of the task is a pure function of (seed, position). The task stands in the place of language modelling: its
head is the decoder's own.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.data.arithmetic import Equations
from genesis_ds.data.keyed_random import keyed_permutation
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch


class ModularArithmetic:
    """The training equations of a table."""

    name = LM
    kinds = ("answer",)

    def __init__(self, equations: Equations, seed: int) -> None:
        self.equations, self.seed = equations, seed
        self.sequences_per_epoch = len(equations)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The equations at these positions of the task, in this order. labels: answers int64 [B]; kinds int64 [B]."""
        epochs, indices = np.divmod(positions, self.sequences_per_epoch)
        rows = np.empty_like(indices)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            order = keyed_permutation(f"arithmetic/{self.seed}/{epoch}", self.sequences_per_epoch)
            rows[of_epoch] = order[indices[of_epoch]]
        tokens, answers = (torch.from_numpy(part[rows]) for part in (self.equations.tokens, self.equations.answers))
        return Batch({"tokens": tokens}, {"answers": answers, "kinds": torch.zeros_like(answers)}, tokens.numel())

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy in nats of logits [B, T, V] at the sign =, and which answers are the likeliest."""
        logits, answers = output[:, -1].float(), batch.labels["answers"]
        return F.cross_entropy(logits, answers), logits.argmax(-1) == answers
