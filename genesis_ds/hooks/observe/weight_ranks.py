"""Ranks of the weights: how many directions the matrices of a few blocks fill."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.spectrum import matrix_ranks
from genesis_ds.engine.internals import whole_shape
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.occasions import BesideStep0, Occasions
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.lm import evenly_spaced

BLOCKS = 4
"""Blocks whose matrices are measured, the first and the last among them."""


class WeightRanks(BesideStep0):
    """Measures the stable and the effective rank of the matrices of four blocks (analysis/spectrum.py).

    It does so at the thorough evaluations of lm (`Occasions`), at events without waiting for the next one, and before
    the first step, whose values stand beside the others. Under ZeRO-3 one matrix at a time is gathered. The main rank
    measures.
    """

    def __init__(
        self,
        weights: Callable[[Collection[str]], Iterator[tuple[str, Tensor]]],
        names: Mapping[str, tuple[int, str]],
        schedule: EvaluationSchedule,
        is_main: bool,
    ) -> None:
        """weights: names -> what yields these whole weights. names: of a matrix -> its block, and its name there."""
        super().__init__()
        self.weights, self.names, self.schedule, self.is_main = weights, names, schedule, is_main
        self.is_evaluated, self.occasions = False, Occasions()

    @classmethod
    def build(cls, context: HookContext) -> "WeightRanks | None":
        """Return the hook of a run that measures its trajectory."""
        engine = context.engine
        if not context.run.intervals.trajectory:
            return None
        layers = engine.model.base.layers
        full_names = {id(weight): name for name, weight in engine.model.named_parameters()}
        names = {
            full_names[id(weight)]: (number, name.removesuffix(".weight"))
            for number in evenly_spaced(len(layers), BLOCKS)
            for name, weight in layers[number].named_parameters()
            if len(whole_shape(weight)) == 2
        }
        return cls(engine.weights, names, context.schedules[LM], engine.ranks.is_main)

    def before_update(self, record: StepRecord) -> None:
        self.is_evaluated = self.schedule.due(record)  # events of this step may change the schedule

    def on_step(self, record: StepRecord) -> None:
        self.occasions.note(record.events)
        if (self.is_evaluated or self.occasions.is_asked) and self.occasions.count(record):
            found = self.measured()
            record.metrics |= found | self.beside(found)

    def state_dict(self) -> dict[str, Any]:
        return {"at_step_0": self.at_step_0, **self.occasions.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at_step_0 = state["at_step_0"]
        self.occasions.load_state_dict(state)

    def measured(self) -> dict[str, float]:
        """Return the ranks by metric name, on the main rank; nothing on the others, which all call it."""
        found: dict[str, float] = {}
        for name, weight in self.weights(self.names.keys()):
            if not self.is_main:
                continue
            matrix = weight.float().cpu().numpy()
            if np.isfinite(matrix).all():
                with threadpool_limits(1):  # threads of BLAS take seconds where other processes use the cores
                    ranks = matrix_ranks(matrix)
                block, name_there = self.names[name]
                found |= {metrics.rank_of(block, name_there, measure): value for measure, value in ranks.items()}
        return found
