"""The pictures and tables of published.py."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from genesis_ds import metrics
from genesis_ds.analysis.points import Event, Point
from genesis_ds.pictures import save_picture
from genesis_ds.report.curve_plot import plot

ACCURACIES = tuple(f"val/{split}/arithmetic/accuracy" for split in (metrics.TRAIN_SUBSET, "validation"))
LOSSES = tuple(f"val/{split}/arithmetic/loss" for split in (metrics.TRAIN_SUBSET, "validation"))
MEMORISED, GENERALISED = 0.99, 0.95
"""Training accuracy at t_m, validation accuracy at t_g."""
COLOURS = {"add": "#1f77b4", "subtract": "#d95f02", "multiply": "#2ca02c", "divide": "#9467bd"}


def draw(runs: Sequence[dict[str, Any]], directory: Path) -> None:
    """Draw what has been trained of each study, and print its table."""
    of_study = defaultdict(list)
    for run in runs:
        of_study[run["recipe"]["study"]].append(run)
        print(row_of(run))
    for study, its_runs in of_study.items():
        PICTURES[study](its_runs, directory / f"grokking_{study}.png")


def reached(run: dict[str, Any], accuracy: str, least: float) -> int | None:
    """Return the step of the first evaluation with this accuracy; None where there is none."""
    return next((row["step"] for row in run["rows"] if row[accuracy] >= least), None)


def times(run: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return t_m and t_g."""
    return reached(run, ACCURACIES[0], MEMORISED), reached(run, ACCURACIES[1], GENERALISED)


def row_of(run: dict[str, Any]) -> str:
    """Return a row of the table: name, t_m, t_g, best validation accuracy, last step, events, CPU-seconds."""
    t_m, t_g = times(run)
    best = max(row[ACCURACIES[1]] for row in run["rows"])
    events = ", ".join(f"{event['kind']} {event['step']}" for event in run["events"])
    last, seconds = run["rows"][-1]["step"], run["cpu_seconds"]
    return f"| {run['recipe']['name']} | {t_m} | {t_g} | {best:.2f} | {last} | {events} | {seconds:.0f} |"


def draw_power(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the curve with its events, as `genesis-ds grokking --plot` does."""
    curves = {}
    for run in runs:
        points = [
            Point(row["step"], row[LOSSES[0]], row[LOSSES[1]], row[ACCURACIES[0]], row[ACCURACIES[1]])
            for row in run["rows"]
        ]
        curves["(a + b) mod 97, 30 % of the pairs"] = (points, [Event(**event) for event in run["events"]])
    plot(curves, path)


def figure_of(panels: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure of a size in inches, and its panels, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(panels, squeeze=False, sharex=True)[:, 0]


def draw_nanda(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses, restricted and excluded loss, and what the embedding and the key frequencies are."""
    [run] = runs
    figure, (losses, accuracies, structure) = figure_of(3, (8, 7.5))
    rows = run["rows"]
    measured = [row for row in rows if metrics.RESTRICTED_LOSS in row]
    for axes, names, source in (
        (losses, {LOSSES[0]: "training", LOSSES[1]: "validation"}, rows),
        (losses, {metrics.EXCLUDED_LOSS: "excluded", metrics.RESTRICTED_LOSS: "restricted"}, measured),
        (accuracies, {ACCURACIES[0]: "training", ACCURACIES[1]: "validation"}, rows),
        (structure, {metrics.EMBEDDING_GINI: "Gini coefficient of the embedding"}, measured),
    ):
        for name, label in names.items():
            axes.plot([row["step"] for row in source], [max(row[name], 1e-5) for row in source], label=label)
    keys = structure.twinx()
    steps, n_keys = zip(*((row["step"], row[metrics.KEY_FREQUENCIES]) for row in measured), strict=True)
    keys.plot(steps, n_keys, color="#7f7f7f", linestyle="--", label="key frequencies (right)")
    keys.set(ylim=(0, None), ylabel="frequencies")
    losses.set(yscale="log", ylabel="loss (nats)", title="(a + b) mod 113, 30 % of the pairs, seed 0")
    accuracies.set(ylabel="accuracy")
    structure.set(ylabel="Gini", xlabel="step")
    for axes, place in ((losses, "lower left"), (accuracies, "center right"), (structure, "upper left")):
        axes.legend(loc=place, fontsize=8)
        axes.grid(alpha=0.3)
    keys.legend(loc="center right", fontsize=8)
    save_picture(figure, path)


def draw_shares(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the step of t_g against the share of the pairs, by operation; hollow at the top where it was not reached."""
    figure, (axes,) = figure_of(1, (8, 4.5))
    last = runs[0]["recipe"]["flags"]["max_steps"]
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        flags = run["recipe"]["flags"]
        operation, share = flags["arithmetic.operation"], flags["arithmetic.train_share"]
        t_g = times(run)[1]
        found[operation][share].append(t_g or float("inf"))
        place = share + 0.004 * list(COLOURS).index(operation) - 0.006
        face = COLOURS[operation] if t_g else "none"
        axes.plot(place, t_g or 1.12 * last, "o" if t_g else "^", color=COLOURS[operation], markerfacecolor=face)
    for operation, by_share in found.items():
        shares = sorted(by_share)
        axes.plot(shares, [median(by_share[share]) for share in shares], color=COLOURS[operation], label=operation)
    axes.axhline(last, color="#7f7f7f", linewidth=0.8, linestyle=":")
    axes.set(xlabel="share of the pairs trained on", ylabel="step of validation accuracy 0.95", yscale="log")
    layers = ", two layers" if runs[0]["recipe"]["study"] == "two_layers" else ""
    title = f"p 31{layers}: medians and single seeds; triangles: not within {last:,} steps"
    axes.set_title(title, fontsize=10)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([step for step in (200, 300, 500, 800, 1200, 2000, 3000) if step <= last])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save_picture(figure, path)


def draw_scales(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw t_m and t_g against the scale of the initial weights, every seed and the medians."""
    figure, (axes,) = figure_of(1, (8, 4.5))
    for index, (label, colour) in enumerate((("training accuracy 0.99", "#1f77b4"), ("validation 0.95", "#d95f02"))):
        by_scale: dict[float, list[float]] = defaultdict(list)
        for run in runs:
            scale = run["recipe"]["initial_scale"]
            step = times(run)[index]
            by_scale[scale].append(step or float("inf"))
            axes.plot(scale, step or 1350, "o" if step else "^", color=colour, alpha=0.6)
        scales = sorted(by_scale)
        axes.plot(scales, [median(by_scale[scale]) for scale in scales], color=colour, label=label)
    axes.set(xscale="log", xlabel="initial weights, times", ylabel="step")
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.minorticks_off()
    axes.set_title("(a + b) mod 31, 70 % of the pairs: medians and single seeds", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    save_picture(figure, path)


PICTURES = {
    "power": draw_power,
    "nanda": draw_nanda,
    "shares": draw_shares,
    "two_layers": draw_shares,
    "scales": draw_scales,
}
