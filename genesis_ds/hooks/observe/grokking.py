"""Detection of grokking in the curves that evaluations find."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from genesis_ds import metrics
from genesis_ds.analysis.curve_state import LEARNING_RATE
from genesis_ds.analysis.curves import CHANGED, measures_of
from genesis_ds.analysis.grokking import GrokkingDetector, from_version_1
from genesis_ds.analysis.window_rule import WindowRule
from genesis_ds.config import RunConfig
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.load import weights
from genesis_ds.tasks.registry import TASKS

CONFIRMED = "grokking_confirmed"
VERSES_JUDGED = "number of verses judged"
"""The setting that moves the losses of all tasks but language modelling."""
MASKED = "masked input"


class Grokking(Hook):
    """Looks for grokking with one detector for each curve, that is for each task and language.

    Its events go into the record, evaluations of the task come more often between onset and grokked, and a checkpoint
    is asked for when grokking is confirmed, but not for a part of a text. The curves are the same on every rank, so are
    the detectors. Where a run goes on with other settings, what was changed is part of the next point of each curve.
    """

    version = 3

    def __init__(
        self,
        rule: Literal["states", "window"],
        schedules: Mapping[str, EvaluationSchedule],
        settings: Mapping[str, object] | None = None,
        masking_changes: Collection[int] = (),
    ) -> None:
        """schedules: as in HookContext. settings: what may move losses when it is changed, by its name; JSON-able.

        masking_changes: the steps after which the input is masked, or is no longer.
        """
        self.rule, self.schedules, self.masking_changes = rule, schedules, masking_changes
        self.settings = dict(settings or {})
        self.changed: dict[str, str] = {}
        """Curve -> what was changed since its last point."""
        self.detectors: dict[str, GrokkingDetector | WindowRule] = {}

    @classmethod
    def build(cls, context: HookContext) -> "Grokking | None":
        """Return the hook of a run that looks for grokking."""
        config = context.run.config
        if config.grokking.rule == "none":
            return None
        settings = {
            "task weights": {task: weight for task, weight in weights(config).items() if task in context.run.tasks},
            "weight decay": _weight_decay(config),
            LEARNING_RATE: config.optimizer.lr,
            "perpendicular gradient": config.optimizer.perpendicular_gradient,
            VERSES_JUDGED: config.evaluation.max_verses,
            MASKED: asdict(config.masking),
            "regularisation": asdict(config.regularisation),
            "distillation": [config.distill.weight, config.distill.temperature],
        }
        phases = (config.masking.start, config.masking.end) if config.masking.is_on else ()
        return cls(config.grokking.rule, context.schedules, settings, masking_changes=phases)

    def on_step(self, record: StepRecord) -> None:
        for curve, found in record.curves.items():
            detector, changed = self._detector(curve), _joined(found.changed, self.changed.pop(curve, None))
            point = replace(found, changed=changed)
            if events := detector.update(point):
                record.events[curve] = events
            if any(event.kind == CONFIRMED for event in events) and not metrics.is_of_a_part(curve):
                record.save_as = CONFIRMED
            record.metrics |= measures_of(curve, point)
            if point.changed:
                record.texts[metrics.of_curve(curve, CHANGED)] = point.changed
            if isinstance(detector, GrokkingDetector):
                record.metrics[metrics.of_curve(curve, "gap_closed")] = detector.gap_closed
        if metrics.LR_DROP in record.texts:  # the plateau schedule's, after this evaluation
            self.changed |= dict.fromkeys(self.detectors, LEARNING_RATE)
        if record.global_step in self.masking_changes:
            self.changed |= {curve: _joined(self.changed.get(curve), MASKED) or MASKED for curve in self.detectors}
        if record.curves:
            self._set_pace()

    def state_dict(self) -> dict[str, Any]:
        detectors = {curve: each.state_dict() for curve, each in self.detectors.items()}
        return {"rule": self.rule, "settings": self.settings, "changed": dict(self.changed), "detectors": detectors}

    def convert(self, state: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Return a state of version 1 or 2 as one of this version.

        Since version 3 the tasks on verses are measured in another way, so that their detectors begin anew.
        """
        if version not in (1, 2):
            return None
        verse_tasks = TASKS.keys() - {LM}
        kept = {curve: each for curve, each in state["detectors"].items() if curve.split("/")[0] not in verse_tasks}
        if version == 2:
            return state | {"detectors": kept}
        if state.get("rule") == "states":
            kept = {curve: from_version_1(detector) for curve, detector in kept.items()}
        return {"rule": state.get("rule"), "settings": {}, "changed": {}, "detectors": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the detectors of a checkpoint; those of another rule begin anew."""
        if state["rule"] == self.rule:
            before = state["settings"]
            changed = [name for name, value in self.settings.items() if name in before and before[name] != value]
            for curve, saved in state["detectors"].items():
                self._detector(curve).load_state_dict(saved)
                moved_by = [name for name in changed if name != VERSES_JUDGED or curve.split("/")[0] != LM]
                if waiting := _joined(state["changed"].get(curve), *moved_by):
                    self.changed[curve] = waiting
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
            if task in self.schedules:  # the run may have left it
                self.schedules[task].dense |= detector.between_onset_and_grokked


def _weight_decay(config: RunConfig) -> object:
    """Return the weight decay of all groups and steps; where it is one number that, as in checkpoints of before."""
    own, ratio = config.optimizer.weight_decay_of, config.schedule.weight_decay_end_ratio
    return [config.optimizer.weight_decay, own, ratio] if own or ratio != 1 else config.optimizer.weight_decay


def _joined(*changes: str | None) -> str | None:
    """Return what was changed in one text, each once."""
    return ", ".join(dict.fromkeys(filter(None, changes))) or None
