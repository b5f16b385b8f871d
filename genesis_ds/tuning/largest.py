"""The largest model that a machine trains on so many tokens in so many hours: by plan, then by measurement."""

from dataclasses import dataclass

from genesis_ds.errors import UserError
from genesis_ds.memory.answers.search import LIMIT, at
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning.candidates import (
    Candidate,
    Dimensions,
    by_prediction,
    fits,
    grid,
    own_candidate,
    predicted,
    relative_cost,
)
from genesis_ds.tuning.search import Row, Search


@dataclass(frozen=True)
class Found:
    """A model of the run's family, with settings to train it with."""

    n: int
    """Attention heads; width and depth follow (memory/answers/search.py: at)."""
    scenario: Scenario
    candidate: Candidate


def raw_speed(scenario: Scenario, candidate: Candidate) -> float:
    """Return the predicted tokens per second; where there is no prediction, a number in proportion to them."""
    if step := predicted(scenario, candidate):
        return step.tokens_per_second
    return 1 / relative_cost(candidate.of(scenario))


def planned(scenario: Scenario, of: Dimensions, at_least: float, below: int = LIMIT) -> Found | None:
    """Return the largest model below so many heads with settings that fit and reach a raw speed; None where none is."""

    def found(n: int) -> Found | None:
        try:
            model = at(scenario, "model", n)
            for candidate in by_prediction(model, grid(of)):
                if raw_speed(model, candidate) < at_least:
                    return None  # nor are those after it
                if fits(model, candidate):
                    return Found(n, model, candidate)
        except UserError:
            pass
        return None

    best, high = None, 1
    while high < below and (larger := found(high)):
        best, high = larger, 2 * high
    low, high = (best.n if best else 0), min(high, below)
    while high - low > 1:
        middle = (low + high) // 2
        if larger := found(middle):
            best, low = larger, middle
        else:
            high = middle
    return best


def largest_in_time(search: Search, of: Dimensions, *, n_tokens: float, seconds: float) -> tuple[Row, Found | None]:
    """Return the largest model that was measured to be fast enough, and the first that the plan had taken for it.

    The plan's speed is corrected by each measurement; without a prediction it starts from the run's own. Raises
    UserError where no model is fast enough, or the time to measure is up before one is.
    """
    scenario, needed = search.scenario, n_tokens / seconds
    own, factor = own_candidate(scenario), 1.0
    if not predicted(scenario, own):
        factor = search.measure(scenario, own).tokens_per_second / raw_speed(scenario, own)
    tried: dict[int, Row] = {}
    first, below = None, LIMIT
    while factor > 0:
        found = planned(scenario, of, needed / factor, below)
        first = first or found
        if found is None or found.n in tried or search.is_over:
            break
        tried[found.n] = row = search.measure(found.scenario, found.candidate)
        if row.tokens_per_second:
            factor = row.tokens_per_second / raw_speed(found.scenario, found.candidate)
        else:
            below = found.n
    enough = [n for n, row in tried.items() if row.tokens_per_second >= needed]
    if not enough:
        raise UserError(
            f"tune: no model of this family was measured to train on {n_tokens:,.0f} tokens in {seconds / 3600:g} "
            f"hours ({needed:,.0f} tokens/s); give more --hours, fewer --tokens, or --limit more minutes"
        )
    return tried[max(enough)], first
