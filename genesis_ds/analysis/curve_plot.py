"""A picture of learning curves and what happened to them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from genesis_ds.analysis.points import Event, Point
from genesis_ds.pictures import check_picture, save_picture

COLOURS = {
    "memorised": "#7f7f7f",
    "plateau": "#8c6d31",
    "grokking_onset": "#c98a00",
    "grokking_confirmed": "#2ca02c",
    "grokked": "#007a3d",
    "late_improvement": "#006d5b",
    "generalised": "#17a2b8",
    "undecidable": "#9467bd",
    "relapse": "#d62728",
    "collapse": "#8c1a1a",
}
TRAIN, VALIDATION = "#1f77b4", "#d95f02"
ROW = 12
"""Height of a row of labels in points."""


def plot(curves: Mapping[str, tuple[Sequence[Point], Sequence[Event]]], path: Path) -> None:
    """Draw each curve's losses, and accuracies where there are any, over the logarithm of steps, and its events.

    Raises UserError for a kind of file that matplotlib does not write, and for a place where it cannot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_picture(path)
    heights = [height for points, _ in curves.values() for height in ([3, 1.5] if _accuracies(points) else [3])]
    figure = Figure(figsize=(9, 1.3 * sum(heights)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Iterator[Any] = iter(figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0])
    labelled = []
    for name, (points, events) in curves.items():
        axes = next(panels)
        _draw_losses(axes, points)
        both = [axes]
        if _accuracies(points):
            both.append(next(panels))
            _draw_accuracies(both[1], points)
        both[-1].set_xlabel("step")
        for panel, event in product(both, events):
            panel.axvline(event.step, color=COLOURS[event.kind], linewidth=1, alpha=0.8, zorder=1)
        labelled.append((axes, name, events))
    figure.draw_without_rendering()
    for axes, name, events in labelled:
        n_rows = _label(axes, events)
        axes.set_title(name, loc="left", fontweight="bold", pad=6 + ROW * n_rows)
    save_picture(figure, path)


def _accuracies(points: Sequence[Point]) -> bool:
    return any(point.train_accuracy is not None or point.val_accuracy is not None for point in points)


def _draw_losses(axes: Any, points: Sequence[Point]) -> None:
    steps = [max(1, point.step) for point in points]
    axes.plot(steps, [point.train_loss for point in points], color=TRAIN, label="training")
    axes.plot(steps, [point.val_loss for point in points], color=VALIDATION, label="validation")
    axes.set(xscale="log", yscale="log", ylabel="loss (nats)")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)


def _draw_accuracies(axes: Any, points: Sequence[Point]) -> None:
    steps = [max(1, point.step) for point in points]
    axes.plot(steps, [_or_gap(point.train_accuracy) for point in points], color=TRAIN)
    axes.plot(steps, [_or_gap(point.val_accuracy) for point in points], color=VALIDATION)
    axes.set(xscale="log", ylim=(-0.05, 1.05), ylabel="accuracy")
    axes.grid(alpha=0.3)


def _or_gap(value: float | None) -> float:
    return math.nan if value is None else value


def _label(axes: Any, events: Sequence[Event]) -> int:
    """Name the events above the panel, in as many rows as keep labels apart; return how many."""
    ends: list[float] = []
    for event in events:
        x, _ = axes.transData.transform((event.step, 1))
        label = axes.annotate(
            f"{event.kind.removeprefix('grokking_')} {event.step:,}",
            (event.step, 1),
            (2, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=COLOURS[event.kind],
            fontsize=8.5,
        )
        width = label.get_window_extent().width
        row = next((row for row, end in enumerate(ends) if x > end), len(ends))
        ends[row : row + 1] = [x + width + 6]
        label.set_position((2, 3 + ROW * row))
    return len(ends)
