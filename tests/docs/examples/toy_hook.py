"""A hook of one's own: it says how far the loss has fallen since it began to look."""

from typing import Any

from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.metrics import TRAIN_LOSS


class Descent(Hook):
    """The first loss that was reported less the present one."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.first: float | None = None

    @classmethod
    def build(cls, context: HookContext, every: int | str = "0.5 epochs") -> "Descent":
        """Return the hook of a run; every: steps, or epochs such as "2 epochs"."""
        return cls(context.run.steps(every))

    def on_step(self, record: StepRecord) -> None:
        loss = record.metrics.get(TRAIN_LOSS)
        if loss is not None and self.first is None:
            self.first = loss
        if loss is not None and self.first is not None and record.due(self.every):
            record.metrics["toy/descent"] = self.first - loss

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first = state["first"]
