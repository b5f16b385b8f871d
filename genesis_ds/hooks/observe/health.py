"""Numerical health: whether the training tokens still have a loss, and how large the logits have grown."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.data.arithmetic import Equations
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.observe.trajectory import MAX_STATES, windows_of_tier
from genesis_ds.model.multitask import LM
from genesis_ds.model.output import IGNORE

COLLAPSED = 0.1
"""Share of training tokens without a loss from which on there is a warning."""


class Health(Hook):
    """Measures the share of training tokens whose loss is exactly 0 in fp32, and the size of the logits.

    A token of which the softmax rounds to certainty has no gradient (softmax collapse, arXiv 2501.04697): where most
    have none, training stands still, whatever the step size. It looks at the same part of the training data each time,
    in evaluation mode, when `trajectory` measures.
    """

    def __init__(
        self,
        *,
        logits: Callable[[Tensor], Tensor],
        evaluating: Callable[[], AbstractContextManager[None]],
        tokens: Tensor,
        targets: Tensor,
        every: int,
        micro_batch_size: int,
        device: torch.device,
    ) -> None:
        """logits: token ids [B, T] -> logits [B, T, V]. tokens, targets: int64 [n, T], IGNORE where none is asked."""
        self.logits, self.evaluating, self.tokens, self.targets = logits, evaluating, tokens, targets
        self.every, self.micro_batch_size, self.device = every, micro_batch_size, device
        self.has_warned = False

    @classmethod
    def build(cls, context: HookContext) -> "Health | None":
        """Return the hook of a run that trains the decoder and measures its trajectory."""
        run, engine = context.run, context.engine
        if LM not in run.tasks or not run.intervals.trajectory:
            return None
        if context.text:
            tokens, targets = windows_of_tier(context.text.token_set, "train", run.config.batch.seq_len)
        else:
            tokens, targets = _equations(context.arithmetic.table.train)
        return cls(
            logits=partial(engine.output, LM),
            evaluating=engine.evaluating,
            tokens=tokens,
            targets=targets,
            every=run.intervals.trajectory,
            micro_batch_size=run.config.batch.micro_batch_size,
            device=engine.device,
        )

    def on_step(self, record: StepRecord) -> None:
        if record.global_step != 1 and not record.due(self.every):
            return
        with self.evaluating():
            share, scale = self._measure()
        record.metrics |= {metrics.ZERO_LOSS: share, metrics.LOGIT_SCALE: scale}
        if share >= COLLAPSED and not self.has_warned:
            self.has_warned = True
            record.texts[metrics.COLLAPSE] = (
                f"{share:.0%} of the training tokens have a loss of exactly 0 in fp32 and teach nothing more; more "
                "optimizer.weight_decay or a lower optimizer.lr keeps the logits smaller"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"has_warned": self.has_warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.has_warned = state["has_warned"]

    def _measure(self) -> tuple[float, float]:
        """Return the share of the targets without a loss and the scale of the logits; all ranks compute the whole."""
        n_zero = n_targets = n_logits = 0
        squares = 0.0
        for rows in torch.arange(len(self.tokens)).split(self.micro_batch_size):
            tokens, targets = (each[rows].to(self.device) for each in (self.tokens, self.targets))
            asked = targets != IGNORE
            logits = self.logits(tokens)[asked].float()
            n_zero += int((F.cross_entropy(logits, targets[asked], reduction="none") == 0).sum())
            squares += float(logits.var(-1, correction=0).sum()) * logits.shape[-1]
            n_targets, n_logits = n_targets + len(logits), n_logits + logits.numel()
        return n_zero / n_targets, (squares / n_logits) ** 0.5


def _equations(train: Equations) -> tuple[Tensor, Tensor]:
    """Return tokens and targets of the first equations, which stand in random order: the answer at the sign =."""
    tokens = torch.from_numpy(train.tokens[:MAX_STATES])
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -1] = torch.from_numpy(train.answers[:MAX_STATES])
    return tokens, targets
