"""Curves as a page draws them: with at most so many points each, and steps that several share written once."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genesis_ds.report.run_record import Series

DIGITS = 4
"""Significant digits of a drawn value."""


def decimated(series: Series, n_points: int, last_step: int) -> Series:
    """Return a series with about n_points: of each part of the run the lowest and the highest value, in their order.

    Half of the parts are equally wide, half are on a logarithmic axis. A shorter series stays as it is; of a part in
    which nothing is finite one point stays, and the last value always. A point lies within its part, at the same steps
    for every series. last_step: of the run.
    """
    steps, values = series
    after_start = steps >= 1  # an axis of log steps has no 0
    steps, values = steps[after_start], values[after_start]
    if len(steps) <= n_points:
        return Series(steps, values)
    edges = parts_of(last_step, n_points // 2)
    starts = np.unique(np.searchsorted(steps, edges))
    drawn_steps, drawn_values = [], []
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        part = values[start:end]
        bucket = int(np.searchsorted(edges, steps[start], side="right"))
        first = int(edges[bucket - 1])
        last = int(edges[bucket]) - 1 if bucket < len(edges) else last_step - 1
        if not np.isfinite(part).any():
            drawn_steps.append(first)
            drawn_values.append(np.nan)
            continue
        low, high = sorted((int(np.nanargmin(part)), int(np.nanargmax(part))))
        drawn_steps += [first] if first == last else [first, (first + last + 1) // 2]
        drawn_values += [part[low]] if first == last else [part[low], part[high]]
    return Series(np.array([*drawn_steps, steps[-1]]), np.array([*drawn_values, values[-1]]))


def parts_of(last: int, n_parts: int) -> NDArray[np.int64]:
    """Return the first step of each part of a run."""
    even = np.linspace(1, last, n_parts // 2, endpoint=False)
    logarithmic = np.geomspace(1, last, n_parts - n_parts // 2, endpoint=False)
    return np.unique(np.concatenate([even, logarithmic]).astype(np.int64))


def drawn(values: NDArray[np.float64]) -> list[float | int | None]:
    """Return values as JSON has them: few digits, None for what is not finite."""
    return [_drawn(value) if np.isfinite(value) else None for value in values.tolist()]


def _drawn(value: float) -> float | int:
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


@dataclass
class Steps:
    """The different lists of steps of a page."""

    n_points: int
    """About the most points of a curve."""
    last_step: int
    """Of the longest run."""
    lists: list[list[int]] = field(default_factory=list)
    _numbers: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, series: Series) -> dict[str, object]:
        """Return a series as the page has it: the number of its list of steps, and its values."""
        steps, values = decimated(series, self.n_points, self.last_step)
        key = tuple(steps.tolist())
        if key not in self._numbers:
            self._numbers[key] = len(self.lists)
            self.lists.append(list(key))
        return {"x": self._numbers[key], "y": drawn(values)}
