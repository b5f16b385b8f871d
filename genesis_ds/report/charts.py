"""What is drawn: charts of curves over the steps, and heat maps of depths over the steps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from genesis_ds import metrics
from genesis_ds.report.curves import Steps, drawn, parts_of
from genesis_ds.report.run_record import RunRecord, Series, mean

Style = Literal["line", "mean", "control", "low", "high"]
Members = Mapping[str, Sequence[Series | None]]
"""Label -> the curve in each run; None in a run that does not have it."""
NO_CONTROLS: Mapping[str, float] = {}
OF_AVERAGE = ", averaged"
"""Behind the label of a curve: of the average of the weights."""
MOST_COLUMNS = 60
"""Steps of a heat map."""


@dataclass(frozen=True)
class Line:
    """A curve of a chart."""

    label: str
    series: Series
    style: Style = "line"


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step."""

    step: int
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves with one unit; where there are several sets of them, the reader chooses one."""

    title: str
    unit: str
    sets: dict[str, list[Line]]
    about: str = ""
    is_log: bool = False
    marks: dict[str, list[Mark]] = field(default_factory=dict)
    """Name of a set -> what happened to it; under the empty name what happened to all."""

    def to_json(self, steps: Steps) -> dict[str, Any]:
        """Return what the page's script needs."""
        return {
            "title": self.title,
            "unit": self.unit,
            "about": self.about,
            "log": self.is_log,
            "sets": [
                {
                    "name": name,
                    "lines": [{"label": line.label, "style": line.style, **steps.add(line.series)} for line in lines],
                    "marks": _thinned(self.marks.get(name, self.marks.get("", [])), steps),
                }
                for name, lines in self.sets.items()
            ],
        }


def _thinned(marks: Sequence[Mark], steps: Steps) -> list[list[str | int]]:
    """Return step, kind and label of marks; those of one kind that would be drawn over each other are one."""
    edges = parts_of(steps.last_step, steps.n_points // 4)
    together: dict[tuple[str, int], list[Mark]] = defaultdict(list)
    for mark in marks:
        together[mark.kind, int(np.searchsorted(edges, mark.step, side="right"))].append(mark)
    return [
        [first.step, first.kind, f"{first.label} and {len(others)} more" if others else first.label]
        for first, *others in together.values()
    ]


def chart_of(
    runs: Sequence[RunRecord],
    title: str,
    unit: str,
    groups: Mapping[str, Members],
    *,
    controls: Mapping[str, float] = NO_CONTROLS,
    about: str = "",
    is_log: bool = False,
    marks: dict[str, list[Mark]] | None = None,
) -> Chart | None:
    """Return a chart; None where no run has any of it.

    Of one run, a group is a set and its members the lines; of several, each member is a set and the runs are the lines.
    controls: constants that are drawn across each set.
    """
    sets: dict[str, list[Line]] = {}
    for group, members in groups.items():
        for label, of_runs in members.items():
            found = [(run.name, series) for run, series in zip(runs, of_runs, strict=True) if series is not None]
            if not found:
                continue
            if len(runs) == 1:
                style: Style = "mean" if label in ("mean", f"mean{OF_AVERAGE}") else "line"
                sets.setdefault(group, []).append(Line(label, found[0][1], style))
            else:
                sets[" ".join(part for part in (group, label) if part)] = [Line(name, series) for name, series in found]
    for lines in sets.values():
        lines += [Line(label, Series(np.array([1]), np.array([value])), "control") for label, value in controls.items()]
    if not sets:
        return None
    return Chart(title=title, unit=unit, sets=sets, about=about, is_log=is_log, marks=marks or {})


def of_runs(runs: Sequence[RunRecord], name: str) -> list[Series | None]:
    """Return a measure in each run."""
    return [run.measures.get(name) for run in runs]


def mean_of_runs(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Series | None]:
    """Return the mean of measures in each run, of those that it has."""
    found = [[run.measures[name] for name in names if name in run.measures] for run in runs]
    return [mean(series) if series else None for series in found]


def with_averages(runs: Sequence[RunRecord], named: Mapping[str, Sequence[str]]) -> Members:
    """Return the mean of each label's measures, and behind it what it is in the average of the weights."""
    suffixes = {"": "", OF_AVERAGE: metrics.AVERAGED}
    return {
        label + said: mean_of_runs(runs, [name + suffix for name in names])
        for label, names in named.items()
        for said, suffix in suffixes.items()
    }


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A measure of the hidden states, by depth and step."""

    title: str
    about: str
    sets: dict[str, dict[int, Series]]
    """Name -> depth -> the measure."""
    controls: dict[str, float] = field(default_factory=dict)
    is_log: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what the page's script needs: for each set its steps, depths, and a row of values for each depth."""
        sets = []
        for name, by_depth in self.sets.items():
            steps = _columns(np.unique(np.concatenate([series.steps for series in by_depth.values()])))
            depths = sorted(by_depth)
            rows = [drawn(_at(by_depth[depth], steps)) for depth in depths]
            sets.append({"name": name, "steps": steps.tolist(), "depths": depths, "rows": rows})
        return {
            "title": self.title,
            "about": self.about,
            "log": self.is_log,
            "controls": {name: float(f"{value:.3g}") for name, value in self.controls.items() if np.isfinite(value)},
            "sets": sets,
        }


def _columns(steps: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return at most MOST_COLUMNS of the steps: the last in each part of an axis of log steps."""
    steps = steps[steps >= 1]
    if len(steps) <= MOST_COLUMNS:
        return steps
    ends = np.geomspace(steps[0], steps[-1], MOST_COLUMNS)
    ends[-1] = steps[-1]
    return np.unique(steps[np.searchsorted(steps, ends, side="right") - 1])


def _at(series: Series, steps: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the last value of a series at each step; nan before its first."""
    at = np.searchsorted(series.steps, steps, side="right") - 1
    return np.where(at >= 0, series.values[at], np.nan)
