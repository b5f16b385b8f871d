"""Each task judged as it asks to be."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

from genesis_ds import metrics
from genesis_ds.analysis.points import Point
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.occasions import BesideStep0
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Evaluation, Model
from genesis_ds.tasks.verse_evaluation import VerseEvaluation


class EvaluateTasks(BesideStep0):
    """Puts what the evaluations of the tasks find into the record: their measures, and a point of each curve."""

    def __init__(
        self,
        model: Model,
        evaluating: Callable[[], AbstractContextManager[None]],
        evaluations: Mapping[str, Evaluation],
        schedules: Mapping[str, EvaluationSchedule],
        *,
        is_main: bool = True,
        averaged: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(False),
    ) -> None:
        """evaluations, schedules: as in HookContext. is_main: whether to look at the surface of the text.

        averaged: puts the average of the weights in their place; says whether there is one.
        """
        super().__init__()
        self.averaged = averaged
        self.model, self.evaluating, self.is_main = model, evaluating, is_main
        self.evaluations, self.schedules = evaluations, schedules
        self.on_surface: dict[str, dict[str, float]] = {}
        """Task -> what the surface of the text gives, once it has been judged."""

    @classmethod
    def build(cls, context: HookContext) -> "EvaluateTasks":
        """Return the hook of a run."""
        engine = context.engine
        calls = ModelCalls(engine.output, engine.ranks, engine.device)
        is_main = engine.ranks.is_main
        return cls(
            calls,
            engine.evaluating,
            context.evaluations,
            context.schedules,
            is_main=is_main,
            averaged=engine.averaged,
        )

    def measured(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for task, evaluate in self.evaluations.items():
            if task != LM:
                with self.evaluating():
                    found |= _on_validation(evaluate, self.model)
        return found

    def on_step(self, record: StepRecord) -> None:
        for task, evaluate in self.evaluations.items():
            if not self.schedules[task].due(record):
                continue
            with self.evaluating():
                found = evaluate(self.model)
            record.metrics |= found.metrics | self._before(found.metrics) | self._surface(task)
            with self.averaged() as there_is_one, self.evaluating():
                of_average = _on_validation(evaluate, self.model) if there_is_one else {}
            record.metrics |= metrics.averaged(of_average)
            for curve, (train, validation) in found.curves().items():
                record.curves[curve] = Point(
                    step=record.global_step,
                    train_loss=train.loss,
                    val_loss=validation.loss,
                    train_accuracy=train.accuracy,
                    val_accuracy=validation.accuracy,
                    learning_rate=record.learning_rate,
                )

    def state_dict(self) -> dict[str, Any]:
        return {"at_step_0": self.at_step_0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at_step_0 = state.get("at_step_0", {})

    def _before(self, found: Mapping[str, float]) -> dict[str, float]:
        """Return what the measures were in the model before the first step, where it was asked as often."""
        before = self.at_step_0
        asked = [name.removesuffix(metrics.TRIALS) for name in found if name.endswith(metrics.TRIALS)]
        return self.beside(name for name in asked if before.get(name + metrics.TRIALS) == found[name + metrics.TRIALS])

    def _surface(self, task: str) -> dict[str, float]:
        evaluate = self.evaluations[task]
        if self.is_main and task not in self.on_surface and isinstance(evaluate, VerseEvaluation):
            with threadpool_limits(1):
                self.on_surface[task] = evaluate.on_surface()
        return self.on_surface.get(task, {})


def _on_validation(evaluate: Evaluation, model: Model) -> dict[str, float]:
    """Return the measures of an evaluation, by as few calls of the model as it allows."""
    return evaluate.on_validation(model) if isinstance(evaluate, VerseEvaluation) else evaluate(model).metrics
