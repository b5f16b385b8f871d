"""The rule for grokking of the earlier Genesis Arbiter code, for comparison."""

import math
from statistics import fmean
from typing import Any

from genesis_ds.analysis.points import Event, Point


class WindowRule:
    """Reports grokking, once, where the mean validation loss of a window's newer half is 10 % below the older half's.

    Ordinary learning does that as well.
    """

    between_onset_and_grokked = False

    def __init__(self, patience: int = 1000, drop: float = 0.1) -> None:
        """patience: points of the window."""
        self.patience, self.drop = patience, drop
        self.losses: list[float] = []
        self.last_step: int | None = None
        self.phase = "learning"

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "last_step": self.last_step, "phase": self.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.last_step, self.phase = list(state["losses"]), state["last_step"], state["phase"]

    def update(self, point: Point) -> list[Event]:
        if self.last_step is not None and point.step <= self.last_step:
            return []
        self.last_step = point.step
        if self.phase == "grokked" or not math.isfinite(point.val_loss):
            return []
        self.losses = [*self.losses, point.val_loss][-self.patience :]
        half = self.patience // 2
        older, newer = fmean(self.losses[:half]), fmean(self.losses[-half:])
        if len(self.losses) < self.patience or newer > (1 - self.drop) * older:
            return []
        self.phase = "grokked"
        reason = f"mean validation loss {newer:.3f} of {half} points, {older:.3f} of the {half} before"
        return [Event("grokked", point.step, {"older": older, "newer": newer}, reason)]
