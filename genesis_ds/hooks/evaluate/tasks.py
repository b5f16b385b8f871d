"""Each task judged as it asks to be."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from genesis_ds.analysis.points import Point
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.tasks.base import Evaluation, Model


class EvaluateTasks(Hook):
    """Puts what the evaluations of the tasks find into the record: their measures, and a point of each curve."""

    def __init__(
        self,
        model: Model,
        evaluating: Callable[[], AbstractContextManager[None]],
        evaluations: Mapping[str, Evaluation],
        schedules: Mapping[str, EvaluationSchedule],
    ) -> None:
        """evaluations, schedules: as in HookContext."""
        self.model, self.evaluating = model, evaluating
        self.evaluations, self.schedules = evaluations, schedules

    @classmethod
    def build(cls, context: HookContext) -> "EvaluateTasks":
        """Return the hook of a run."""
        engine = context.engine
        calls = ModelCalls(engine.output, engine.ranks, engine.device)
        return cls(calls, engine.evaluating, context.evaluations, context.schedules)

    def on_step(self, record: StepRecord) -> None:
        for task, evaluate in self.evaluations.items():
            if not self.schedules[task].due(record):
                continue
            with self.evaluating():
                found = evaluate(self.model)
            record.metrics |= found.metrics
            for curve, (train, validation) in found.curves().items():
                record.curves[curve] = Point(
                    step=record.global_step,
                    train_loss=train.loss,
                    val_loss=validation.loss,
                    train_accuracy=train.accuracy,
                    val_accuracy=validation.accuracy,
                    learning_rate=record.learning_rate,
                )
