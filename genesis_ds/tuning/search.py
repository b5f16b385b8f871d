"""The fastest settings: measured one dimension after the other, the best predicted first, until none is faster."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from genesis_ds.config import ModelConfig
from genesis_ds.config.parse import merge
from genesis_ds.errors import UserError
from genesis_ds.memory.answers.step_time import StepTime
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning.candidates import (
    Candidate,
    Dimensions,
    by_prediction,
    grid,
    own_candidate,
    predicted,
)
from genesis_ds.tuning.plans import Plans
from genesis_ds.tuning.trials import Bench, Trial

WORTH_MEASURING = 1.5
"""Times the predicted step of the fastest so far: the prediction is off by a quarter, either way."""
PATIENCE = 2
"""So many in a row that are slower than the fastest end a dimension: those left should be slower still."""


@dataclass
class Row:
    """What is known of a candidate."""

    candidate: Candidate
    scenario: Scenario
    """The run with its settings."""
    step: StepTime | None
    """Predicted."""
    trials: list[Trial] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """The most that was measured, as other work on a machine only takes from it; 0 where it did not train."""
        return max((trial.tokens_per_second or 0.0 for trial in self.trials), default=0.0)


class Search:
    """Measures candidates of a run within a time, and keeps what is known of each."""

    def __init__(
        self, scenario: Scenario, given: dict[str, Any], bench: Bench, *, seconds: float, say: Callable[[str], None]
    ) -> None:
        """given: what the run's YAML and flags say. seconds: to measure in, planning not counted.

        say: is told of each result, and of planning that takes long.
        """
        self.scenario, self.given, self.bench, self.say = scenario, given, bench, say
        self.seconds_left = seconds
        self.plans = Plans(say)
        self.rows: dict[tuple[Candidate, ModelConfig], Row] = {}

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.seconds_left <= 0

    def values(self, scenario: Scenario, candidate: Candidate) -> dict[str, Any]:
        """Return the YAML of the scenario's run with a candidate's settings."""
        values = merge(self.given, candidate.values())
        if (model := scenario.run.model) == self.scenario.run.model:
            return values
        usual, own = ModelConfig(), {field.name for field in dataclasses.fields(ModelConfig)}
        shape = {name: getattr(model, name) for name in own if getattr(model, name) != getattr(usual, name)}
        return values | {"model": dict(sorted((shape | {"preset": None}).items()))}

    def measure(self, scenario: Scenario, candidate: Candidate, turn: int = 0) -> Row:
        """Return the row of a candidate with what came of it, in this start or an earlier one, if there was time."""
        of = candidate.of(scenario)
        key = (candidate, of.run.model)
        row = self.rows.setdefault(key, Row(candidate, of, predicted(scenario, candidate)))
        if len(row.trials) > turn:
            return row
        values, started = self.values(scenario, candidate), time.monotonic()
        trial = self.bench.measure(
            values, of.ds_config, threads=candidate.threads, seconds=self.seconds_left, turn=turn
        )
        self.seconds_left -= time.monotonic() - started
        if trial:
            row.trials.append(trial)
            self.say(f"{describe(row)}: {told(trial)}")
            self.plans.heard()
        return row

    def fastest(self, of: Dimensions) -> Row:
        """Return the fastest row that a descent along each dimension in turn comes to; the run's own where none is.

        Raises UserError where nothing fits, or nothing was measured.
        """
        best = max((self.measure(self.scenario, start) for start in self._starts(of)), key=_speed)
        before = None
        while best.candidate != before and not self.is_over:
            before = best.candidate
            for name, values in of.items():
                best = self._along([dataclasses.replace(best.candidate, **{name: value}) for value in values], best)
        own = self.rows.get((own_candidate(self.scenario), self.scenario.run.model))
        if own and own is not best and own.tokens_per_second:  # both once more, in turn: a machine has its moods
            best = max((self.measure(self.scenario, row.candidate, turn=1) for row in (own, best)), key=_speed)
        if not best.tokens_per_second:
            why = next((trial.problem for row in self.rows.values() for trial in row.trials), "the time is up")
            raise UserError(f"tune: nothing was measured: {why}; give --limit more minutes, or try genesis-ds bench")
        return best

    def _starts(self, of: Dimensions) -> list[Candidate]:
        """Return the run's own settings, and the best predicted ones; of these only what the plan has place for."""
        own = own_candidate(self.scenario)
        starts = [own] if self.plans.fits(self.scenario, own) else []
        if not starts or predicted(self.scenario, own):
            best = self.plans.first(self.scenario, by_prediction(self.scenario, grid(of)))
            starts += [best] if best else []
        if not starts:
            raise UserError("tune: no setting of this run fits this machine by its memory plan; see genesis-ds memory")
        return list(dict.fromkeys(starts))

    def _along(self, candidates: Sequence[Candidate], best: Row) -> Row:
        """Return the fastest of candidates that differ in one setting, and of the fastest so far."""
        slower = 0
        for candidate in by_prediction(self.scenario, candidates):
            if slower == PATIENCE or self.is_over:
                break
            if candidate == best.candidate or not self._is_promising(candidate, best):
                continue
            row = self.measure(self.scenario, candidate)
            best, slower = (row, 0) if _speed(row) > _speed(best) else (best, slower + 1)
        return best

    def _is_promising(self, candidate: Candidate, best: Row) -> bool:
        step = predicted(self.scenario, candidate)
        slow = step and best.step and step.seconds > WORTH_MEASURING * best.step.seconds
        return not slow and self.plans.fits(self.scenario, candidate)


def _speed(row: Row) -> float:
    return row.tokens_per_second


def describe(row: Row) -> str:
    """Return a candidate in words."""
    candidate, model = row.candidate, row.scenario.run.model
    rows = candidate.micro_batch_size
    at_once = f"{rows} row{'s' * (rows != 1)} at once"
    return f"{model.n_layers} x {model.dim}, {candidate}, recomputed {candidate.recomputation}, {at_once}"


def told(trial: Trial) -> str:
    """Return what came of a trial in words."""
    return f"{trial.tokens_per_second:,.0f} tokens/s" if trial.tokens_per_second else trial.problem
