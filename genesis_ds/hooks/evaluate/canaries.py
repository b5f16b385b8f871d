"""Canaries: how well the model knows random sequences, by how often it has been given them."""

import math
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from genesis_ds import metrics
from genesis_ds.analysis.memorisation import exposure, exposure_by_chance, mean_interval
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.memorisation import losses_and_known
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.occasions import BesideStep0, Occasions
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Model
from genesis_ds.tasks.canaries import LENGTH, Canaries

ALTERNATIVES = 1023
"""Random sequences among which every canary has its rank."""
MOST_BITS = math.log2(ALTERNATIVES + 1)
"""The exposure of a canary that has a lower loss than all of them."""


class CanaryExposure(BesideStep0):
    """Measures the exposure of the run's canaries, the mean of those with the same number of repetitions.

    It does so at the thorough evaluations of language modelling (`Occasions`), and before the first step.
    """

    def __init__(
        self,
        model: Model,
        evaluating: Callable[[], AbstractContextManager[None]],
        canaries: Canaries,
        *,
        schedule: EvaluationSchedule,
        rows: int,
    ) -> None:
        """schedule: of language modelling. rows: of a batch."""
        super().__init__()
        self.model, self.evaluating, self.schedule, self.rows = model, evaluating, schedule, rows
        self.repetitions, known = canaries.repetitions, canaries.tokens[:, : 1 + LENGTH]
        self.sequences = np.concatenate([known, canaries.draw("canaries/alternatives", ALTERNATIVES)])
        self.identity = zlib.crc32(self.sequences.tobytes())
        self.occasions = Occasions(LM)

    @classmethod
    def build(cls, context: HookContext) -> "CanaryExposure | None":
        """Return the hook of a run that trains on canaries."""
        run, engine, batch = context.run, context.engine, context.run.config.batch
        config = run.config.memorisation
        if context.text is None or LM not in run.tasks or not config.canaries:
            return None
        return cls(
            ModelCalls(engine.output, engine.ranks, engine.device),
            engine.evaluating,
            Canaries(config, context.text.token_set, run.config.seed),
            schedule=context.schedules[LM],
            rows=batch.micro_batch_size * max(1, batch.seq_len // LENGTH),
        )

    def on_step(self, record: StepRecord) -> None:
        self.occasions.look(record)
        if self.schedule.due(record) and self.occasions.count(record):
            found = self.measured()
            record.metrics |= found | self.beside(found)

    def measured(self) -> dict[str, float]:
        with self.evaluating():
            losses, _ = losses_and_known(self.model, self.sequences, self.rows)
        bits = exposure(*np.split(losses, [len(self.repetitions)]))
        found: dict[str, float] = {}
        for repetitions in np.unique(self.repetitions).tolist():
            name, of_these = metrics.exposure_of(repetitions), bits[self.repetitions == repetitions]
            low, high = np.clip(mean_interval(of_these), 0, MOST_BITS).tolist()
            found |= {name: float(of_these.mean()), name + metrics.LOW: low, name + metrics.HIGH: high}
            found |= {name + metrics.TRIALS: len(of_these), name + metrics.CHANCE: exposure_by_chance(ALTERNATIVES)}
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self.identity, "at_step_0": self.at_step_0, **self.occasions.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["identity"] == self.identity:  # else it is of other canaries
            self.at_step_0 = state["at_step_0"]
            self.occasions.load_state_dict(state)
