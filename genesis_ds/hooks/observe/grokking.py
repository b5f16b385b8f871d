"""Detection of grokking in the curves that evaluations find."""

from collections.abc import Mapping
from typing import Any, Literal

from genesis_ds import metrics
from genesis_ds.analysis.curves import measures_of
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.window_rule import WindowRule
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule

CONFIRMED = "grokking_confirmed"


class Grokking(Hook):
    """Looks for grokking with one detector for each curve, that is for each task and language.

    Its events go into the record, evaluations of the task come more often between onset and grokked, and a checkpoint
    is asked for when grokking is confirmed. The curves are the same on every rank, so are the detectors.
    """

    def __init__(self, rule: Literal["states", "window"], schedules: Mapping[str, EvaluationSchedule]) -> None:
        """schedules: as in HookContext."""
        self.rule, self.schedules = rule, schedules
        self.detectors: dict[str, GrokkingDetector | WindowRule] = {}

    @classmethod
    def build(cls, context: HookContext) -> "Grokking | None":
        """Return the hook of a run that looks for grokking."""
        rule = context.run.config.grokking.rule
        return None if rule == "none" else cls(rule, context.schedules)

    def on_step(self, record: StepRecord) -> None:
        for curve, point in record.curves.items():
            detector = self._detector(curve)
            if events := detector.update(point):
                record.events[curve] = events
            if any(event.kind == CONFIRMED for event in events):
                record.save_as = CONFIRMED
            record.metrics |= measures_of(curve, point)
            if isinstance(detector, GrokkingDetector):
                record.metrics[metrics.of_curve(curve, "gap_closed")] = detector.gap_closed
        if record.curves:
            self._set_pace()

    def state_dict(self) -> dict[str, Any]:
        return {"rule": self.rule, "detectors": {curve: each.state_dict() for curve, each in self.detectors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the detectors of a checkpoint; those of another rule begin anew."""
        if state.get("rule") == self.rule:
            for curve, saved in state["detectors"].items():
                self._detector(curve).load_state_dict(saved)
        self._set_pace()

    def _detector(self, curve: str) -> GrokkingDetector | WindowRule:
        if curve not in self.detectors:
            self.detectors[curve] = GrokkingDetector() if self.rule == "states" else WindowRule()
        return self.detectors[curve]

    def _set_pace(self) -> None:
        for schedule in self.schedules.values():
            schedule.dense = False
        for curve, detector in self.detectors.items():
            task = curve.partition("/")[0]
            self.schedules[task].dense |= detector.between_onset_and_grokked
