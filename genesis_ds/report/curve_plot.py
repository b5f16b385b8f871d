"""Pictures of learning curves and what happened to them: small panels of one size, twelve a page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genesis_ds import metrics
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
OF_A_PAGE, COLUMNS = 12, 4
WIDTH, HEIGHT = 3.6, 2.7
"""Inches of a panel with what stands around it."""
MOST_POINTS = 1000
"""Points of a curve that are drawn; of more, evenly spaced ones. A panel has fewer pixels."""
MOST_LABELS, LETTERS, LETTER = 6, 46, 4.5
"""Events of a panel that are named, letters in a row of their names, and points that a letter takes."""

Curves = Mapping[str, tuple[Sequence[Point], Sequence[Event]]]
"""Name (lm/en) -> its points and events."""


class _Panel(NamedTuple):
    title: str
    points: Sequence[Point]
    events: Sequence[Event]
    is_accuracy: bool = False


def ordered(curves: Curves) -> Curves:
    """Return the curves as they are worth looking at: those with events first, and whole ones before their parts."""
    return dict(sorted(curves.items(), key=lambda item: (not item[1][1], metrics.is_of_a_part(item[0]))))


def short(event: Event) -> str:
    """Return an event in a word and its step: "confirmed 1,200", with a question mark where it is confounded."""
    return f"{event.kind.removeprefix('grokking_')} {event.step:,}{'?' if event.confounded_by else ''}"


def plot(curves: Curves, path: Path) -> list[Path]:
    """Draw each curve's losses, and accuracies where there are any, over the logarithm of steps, and its events.

    Curves with events come first, those without a finite loss are left out. Returns the files: the path, and
    NAME-2 and so on where there are more than 12 panels; none where there is nothing to draw. Raises UserError for a
    kind of file that matplotlib does not write, and for a place where it cannot.
    """
    check_picture(path)
    panels = [panel for name, (points, events) in ordered(curves).items() for panel in _panels(name, points, events)]
    written = []
    for number, first in enumerate(range(0, len(panels), OF_A_PAGE), 1):
        written.append(path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}"))
        save_picture(_page(panels[first : first + OF_A_PAGE]), written[-1])
    return written


def _panels(name: str, points: Sequence[Point], events: Sequence[Event]) -> list[_Panel]:
    if not any(math.isfinite(point.train_loss) or math.isfinite(point.val_loss) for point in points):
        return []
    shown = points[:: math.ceil(len(points) / MOST_POINTS)]
    found = [_Panel(name, shown, events)]
    if any(point.train_accuracy is not None or point.val_accuracy is not None for point in points):
        found.append(_Panel(f"{name}: accuracy", shown, events, is_accuracy=True))
    return found


def _page(panels: Sequence[_Panel]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = WIDTH * columns, HEIGHT * rows + 0.3
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, bottom = WIDTH * column + 0.55, HEIGHT * (rows - row - 1) + 0.4
        axes = figure.add_axes((left / width, bottom / height, (WIDTH - 0.75) / width, (HEIGHT - 1.0) / height))
        _draw(axes, panel)
        if number == 0:
            figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw(axes: Any, panel: _Panel) -> None:
    steps = [max(1, point.step) for point in panel.points]
    pairs = [
        (point.train_accuracy, point.val_accuracy) if panel.is_accuracy else (point.train_loss, point.val_loss)
        for point in panel.points
    ]
    mark = "." if len(steps) == 1 else ""
    for side, (colour, label) in enumerate(((TRAIN, "training"), (VALIDATION, "validation"))):
        values = [math.nan if pair[side] is None else pair[side] for pair in pairs]
        axes.plot(steps, values, color=colour, label=label, linewidth=1.2, marker=mark)
    for event in panel.events:
        axes.axvline(max(1, event.step), color=COLOURS[event.kind], linewidth=1, alpha=0.8, zorder=1)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
    _scale_steps(axes, steps)
    if panel.is_accuracy:
        axes.set_ylim(-0.05, 1.05)
    else:
        _scale_losses(axes, [value for pair in pairs for value in pair if value is not None and 0 < value < math.inf])
    _label(axes, panel)


def _scale_steps(axes: Any, steps: Sequence[int]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    narrow = steps[-1] < 30 * steps[0]  # two powers of ten may not be in it
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step", fontsize=7, labelpad=1)


def _scale_losses(axes: Any, losses: Sequence[float]) -> None:
    """Let the losses have an axis of logarithms, with round numbers written out."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    ratio = max(losses, default=1) / min(losses, default=1)
    of_logarithms = LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,), numticks=6)
    axes.yaxis.set_major_locator(of_logarithms if ratio > 5 else MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("loss (nats)", fontsize=7, labelpad=1)


def _label(axes: Any, panel: _Panel) -> None:
    """Write the name above the panel, and its latest events in rows below the name."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(panel.title, (0, 1), (0, 24), fontsize=9, fontweight="bold", **place)
    n_before = max(0, len(panel.events) - MOST_LABELS)
    labels = [(f"{n_before} before", "black")] if n_before else []
    labels += [(short(event), COLOURS[event.kind]) for event in panel.events[n_before:]]
    at, row = 0, 0
    for text, colour in labels:
        if at and at + len(text) > LETTERS:
            at, row = 0, row + 1
        axes.annotate(text, (0, 1), (LETTER * at, 14 - 10 * row), fontsize=7, color=colour, **place)
        at += len(text) + 1
