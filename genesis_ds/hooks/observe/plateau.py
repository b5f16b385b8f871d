"""The plateau schedule: the learning rate falls when validation stalls."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from genesis_ds import metrics
from genesis_ds.config import ScheduleConfig
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.data.run_data import Text
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext

IMPROVEMENT = 1e-4
"""A new best is better than the one before by more than this share of it, as in torch's ReduceLROnPlateau."""


class Plateau(Hook):
    """Lowers the learning rate each time that so many evaluations in a row have brought no new best.

    It watches the mean over the languages, at multiples of evaluation.every after the warm-up alone: evaluations that
    are due for another reason shorten no patience. The measures are the same on every rank, and so is the rate.
    """

    def __init__(
        self,
        schedule: ScheduleConfig,
        *,
        losses: Sequence[str],
        every: int,
        warmup_steps: int,
        set_scale: Callable[[float], None],
    ) -> None:
        """losses: names of the metrics that it watches. set_scale: takes the rate's share of the peak."""
        self.schedule, self.losses, self.every = schedule, losses, every
        self.warmup_steps, self.set_scale = warmup_steps, set_scale
        self.scale, self.best, self.stalled = 1.0, math.inf, 0

    @classmethod
    def build(cls, context: HookContext) -> "Plateau | None":
        """Return the hook of a run with this schedule. Raises UserError where the run has no text to judge by."""
        run, engine = context.run, context.engine
        if run.schedule.kind != "plateau":
            return None
        return cls(
            run.config.schedule,
            losses=_losses(run, context.text) if context.text else [metrics.ARITHMETIC_LOSS],
            every=run.intervals.evaluation,
            warmup_steps=run.schedule.warmup_steps,
            set_scale=lambda scale: engine.set_peak_rate(run.config.optimizer.lr * scale),
        )

    def on_step(self, record: StepRecord) -> None:
        if record.global_step % self.every or record.global_step <= self.warmup_steps:
            return
        loss = fmean(record.metrics[name] for name in self.losses)
        if loss < self.best * (1 - IMPROVEMENT):
            self.best, self.stalled = loss, 0
        else:
            self.stalled += 1
        if self.stalled >= self.schedule.patience and self.scale > self.schedule.min_lr_ratio:
            self._drop(record)
        record.metrics[metrics.LR_SCALE] = self.scale

    def _drop(self, record: StepRecord) -> None:
        before, self.scale = self.scale, max(self.scale * self.schedule.factor, self.schedule.min_lr_ratio)
        self.set_scale(self.scale)
        record.texts[metrics.LR_DROP] = (
            f"the learning rate falls from {before:.3g} to {self.scale:.3g} of its peak after step "
            f"{record.global_step}: validation has had no better value than {self.best:.4f} for {self.stalled} "
            "evaluations"
        )
        self.stalled = 0

    def state_dict(self) -> dict[str, Any]:
        best = self.best if math.isfinite(self.best) else None  # of which JSON knows no number
        return {"scale": self.scale, "best": best, "stalled": self.stalled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.stalled = state["scale"], state["stalled"]
        self.best = math.inf if state["best"] is None else state["best"]
        self.set_scale(self.scale)


def _losses(run: ResolvedRun, text: Text) -> list[str]:
    """Return the names of the bits per byte of the languages that have text in the split that is watched."""
    split, token_set = run.config.grokking.split, text.token_set
    judged = [language for language in token_set.languages if len(token_set.stream(split, language).tokens) > 1]
    if not judged:
        raise UserError(
            f"schedule.kind: plateau watches grokking.split {split}, which has no text; give the other split"
        )
    return [metrics.bits_per_byte(split, language) for language in judged]
