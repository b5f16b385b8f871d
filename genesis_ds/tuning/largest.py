"""The largest model that a machine trains on so many tokens in so many hours: by plan, then by measurement."""

from bisect import bisect
from dataclasses import dataclass

from genesis_ds.errors import UserError
from genesis_ds.memory.answers.search import LIMIT, at
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning.candidates import (
    Candidate,
    Dimensions,
    by_prediction,
    grid,
    own_candidate,
    predicted,
    relative_cost,
)
from genesis_ds.tuning.search import Row, Search, told

PRECISION = 16
"""Where memory bounds it, a size is found to a sixteenth."""


@dataclass(frozen=True)
class Found:
    """A model of the run's family, with settings to train it with."""

    n: int
    """Steps of the quantity `model` (memory/answers/search.py: at)."""
    scenario: Scenario
    candidate: Candidate


def raw_speed(scenario: Scenario, candidate: Candidate) -> float:
    """Return the predicted tokens per second; where there is no prediction, a number in proportion to them."""
    if step := predicted(scenario, candidate):
        return step.tokens_per_second
    return 1 / relative_cost(candidate.of(scenario))


def planned(search: Search, of: Dimensions, at_least: float, below: int = LIMIT) -> Found | None:
    """Return the largest model below so many steps with settings that fit and reach a raw speed; None where none is.

    What takes no trace of a model bounds it first: the speed, and the weights and moments alone.
    """
    scenario, plans = search.scenario, search.plans
    candidates = by_prediction(scenario, grid(of))

    def fast(n: int) -> list[Candidate]:
        try:
            model = at(scenario, "model", n)
            found = by_prediction(model, candidates)
            return [each for each in found if raw_speed(model, each) >= at_least and each.of(model).states_fit()]
        except UserError:
            return []

    def fits(n: int) -> bool:
        able = fast(n)
        return bool(able) and plans.any_fits(at(scenario, "model", n), able)

    high = 1
    while high < below and fast(high):
        high *= 2
    largest = bisect(range(1, min(high, below)), False, key=lambda n: not fast(n))
    if largest and not fits(largest):
        step = max(1, largest // PRECISION)
        largest = step * bisect(range(step, largest, step), False, key=lambda n: not fits(n))
    if not largest:
        return None
    model = at(scenario, "model", largest)
    candidate = plans.first(model, fast(largest))
    return Found(largest, model, candidate) if candidate else None


def largest_in_time(search: Search, of: Dimensions, *, n_tokens: float, seconds: float) -> tuple[Row, Found | None]:
    """Return the largest model that was measured to be fast enough, and the first that the plan had taken for it.

    The plan's speed is corrected by each measurement; without a prediction it starts from the run's own. Raises
    UserError where no model is fast enough, or the time to measure is up before one is.
    """
    scenario, needed = search.scenario, n_tokens / seconds
    own, factor = own_candidate(scenario), 1.0
    if not predicted(scenario, own):
        measured = search.measure(scenario, own)
        if measured.trials and not measured.tokens_per_second:
            raise UserError(
                f"tune: the run as it is does not train here: {told(measured.trials[0])}; give a smaller one"
            )
        factor = measured.tokens_per_second / raw_speed(scenario, own)
    tried: set[int] = set()
    first, below = None, LIMIT
    while factor > 0 and not search.is_over:
        found = planned(search, of, needed / factor, below)
        first = first or found
        if found is None or found.n in tried:
            break
        tried.add(found.n)
        row = search.measure(found.scenario, found.candidate)
        if row.tokens_per_second:
            factor = row.tokens_per_second / raw_speed(found.scenario, found.candidate)
        else:
            below = found.n
    enough = [row for row in search.rows.values() if row.tokens_per_second >= needed]
    if not enough:
        of_what = f"to train on {n_tokens:,.0f} tokens in {seconds / 3600:g} hours ({needed:,.0f} tokens/s)"
        if search.is_over:
            raise UserError(f"tune: --limit is over before a model was measured {of_what}; give --limit more minutes")
        raise UserError(f"tune: no model of this family was measured {of_what}; give more --hours or fewer --tokens")
    return max(enough, key=lambda row: (row.scenario.sized().model.n_parameters, row.tokens_per_second)), first
