"""How well the grokking detector does: on curves of real training runs, judged by what the accuracies say.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/grokking_curves.py --out DIR [--tuning]
    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/grokking_curves.py --out DIR --small
    PYTHONPATH=. python tests/bench/grokking_curves.py --table DIR [--tuning | --small]

The first trains what DIR lacks (about 10 CPU-minutes; 6 for the runs of the tuning) and prints the table, the second
does so with 20 runs of a network of one hidden layer (2 CPU-minutes), the third only judges the CSVs of DIR. Every
other run is a decoder of one layer by `genesis_ds.model.transformer`, AdamW, fp32, on modular arithmetic (loss on the
answer alone, full batch) or on the bytes of the synthetic corpus.

A curve groks if validation accuracy reaches 0.95 at t_g, train accuracy 0.99 at t_m, and t_g - t_m >= 0.5 t_m. It
improves late if its validation accuracy at the end is 0.10 above the best until 1.5 t_m. Other curves are made of the
runs', which grok or improve if what they are made of does:

- `20 % noise` multiplies every loss by exp(0.2 N(0, 1)) and draws every accuracy from 100 examples;
- `log-spaced` keeps 32 points a decade, at most 200 steps apart;
- `diluted` adds a share of 0.2 of an arithmetic curve's losses to 0.8 of an ordinary text's, and has no accuracies;
- `memorised text` adds 0.5 of them to 0.5 of a text of 1 nat of entropy a token that is learnt by heart from step 300
  on; its end is held five times as long. No accuracies;
- `thinned 10, 25` keep every tenth or 25th point, the end held as well;
- `steps x 100` and `numbered` have other steps: a hundredfold, or 0, 1, 2, ...
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from grokking_runs import EVERY, Recipe, SmallRecipe, recipes, small_recipes, train, train_small, write
from scipy.stats import binomtest

from genesis_ds.analysis.curves import events_of
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Event, Point
from genesis_ds.analysis.window_rule import WindowRule
from genesis_ds.report.curve_files import read_csv


@dataclass(frozen=True)
class Curve:
    """What the detector is given, and the truth."""

    kind: str
    points: list[Point]
    groks: bool
    improves: bool
    accuracies: list[float]
    """Of validation, also where the points do not tell."""


def groks(points: list[Point]) -> bool:
    """The definition of this module's docstring."""
    memorised = next((p.step for p in points if (p.train_accuracy or 0) >= 0.99), math.inf)
    generalised = next((p.step for p in points if (p.val_accuracy or 0) >= 0.95), math.inf)
    return generalised < math.inf and generalised - memorised >= 0.5 * memorised


def improves(points: list[Point]) -> bool:
    """The other definition of this module's docstring."""
    memorised = next((p.step for p in points if (p.train_accuracy or 0) >= 0.99), math.inf)
    before = max((p.val_accuracy or 0 for p in points if p.step <= 1.5 * memorised), default=0)
    return memorised < math.inf and (points[-1].val_accuracy or 0) >= before + 0.1


def curves(runs: list[tuple[Recipe | SmallRecipe, list[Point]]]) -> list[Curve]:
    """The curves of runs, and those made of them."""
    texts = [points for recipe, points in runs if recipe.kind == "ordinary" and not is_arithmetic(recipe)]
    found = []
    for number, (recipe, points) in enumerate(runs):
        made = {recipe.kind: (points, points)}
        if recipe.kind != "restart":
            made["20 % noise"] = noisy(points, number), points
            made["log-spaced"] = log_spaced(points), log_spaced(points)
            for n in (10, 25):
                made[f"thinned {n}"] = 2 * (held(points)[n - 1 :: n],)
            made["steps x 100"] = [replace(p, step=100 * p.step) for p in points], points
            made["numbered"] = [replace(p, step=index) for index, p in enumerate(points)], points
            if is_arithmetic(recipe):
                made["memorised text"] = memorised_text(held(points)), held(points)
                if texts:
                    made["diluted"] = diluted(points, max(texts, key=len)), points
        for kind, (given, judged) in made.items():
            accuracies = [p.val_accuracy or 0.0 for p, _ in zip(judged, given, strict=False)]
            found.append(Curve(kind, given, groks(points), improves(points), accuracies))
    order = [*dict.fromkeys(recipe.kind for recipe, _ in runs)]
    return sorted(found, key=lambda curve: order.index(curve.kind) if curve.kind in order else len(order))


def is_arithmetic(recipe: Recipe | SmallRecipe) -> bool:
    return isinstance(recipe, SmallRecipe) or recipe.operation is not None


def noisy(points: list[Point], seed: int) -> list[Point]:
    random = np.random.default_rng(seed)
    return [
        replace(
            p,
            train_loss=p.train_loss * math.exp(0.2 * random.normal()),
            val_loss=p.val_loss * math.exp(0.2 * random.normal()),
            train_accuracy=random.binomial(100, p.train_accuracy) / 100,
            val_accuracy=random.binomial(100, p.val_accuracy) / 100,
        )
        for p in points
    ]


def log_spaced(points: list[Point]) -> list[Point]:
    """The first point, then each that is a 32nd of a decade, or 200 steps, after the one kept before it."""
    kept = points[:1]
    for point in points[1:]:
        if point.step >= kept[-1].step + min(200, (10 ** (1 / 32) - 1) * kept[-1].step):
            kept.append(point)
    return kept


def diluted(points: list[Point], text: list[Point]) -> list[Point]:
    return [
        Point(p.step, *(0.2 * getattr(p, name) + 0.8 * getattr(t, name) for name in ("train_loss", "val_loss")))
        for p, t in zip(points, text, strict=False)
    ]


def held(points: list[Point]) -> list[Point]:
    """The curve with its end held for four times its length."""
    last = points[-1]
    return points + [replace(last, step=last.step + EVERY * (n + 1)) for n in range(4 * len(points))]


def memorised_text(points: list[Point], share: float = 0.5, entropy: float = 1.0) -> list[Point]:
    """The losses of tokens of which a share follows the rule."""
    unknown = {p.step: 1 / (1 + (p.step / 300) ** 2) for p in points}
    return [
        Point(
            p.step,
            share * p.train_loss + (1 - share) * (0.03 + 5.47 * unknown[p.step]),
            share * p.val_loss + (1 - share) * (entropy + (5.5 - entropy) * unknown[p.step]),
        )
        for p in points
    ]


def without_accuracies(points: list[Point]) -> list[Point]:
    return [replace(point, train_accuracy=None, val_accuracy=None) for point in points]


JUDGES: dict[str, Callable[[list[Point]], list[Event]]] = {
    "states": lambda points: events_of(GrokkingDetector(), points),
    "losses alone": lambda points: events_of(GrokkingDetector(), without_accuracies(points)),
    "window of 100": lambda points: events_of(WindowRule(100), points),
}
COLUMNS = [
    ("states", "grokked"),
    ("states", "undecidable"),
    ("states", "grokking_confirmed"),
    ("states", "grokking_onset"),
    ("losses alone", "late_improvement"),
    ("losses alone", "grokking_confirmed"),
    ("window of 100", "grokked"),
]
"""Judge and claim."""
BY_ACCURACY = COLUMNS[:2]
"""Claims that are made of curves with accuracies alone."""


def wilson(hits: int, n: int) -> str:
    """The 95 % interval of a share (Wilson, 1927)."""
    if not n:
        return "none"
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return f"{hits / n:.2f} ({low:.2f}-{high:.2f})"


def table(judged: list[Curve]) -> str:
    """Markdown: of each kind of curve, what is claimed of those that grok, or improve, and of the others."""
    heads = [f"{judge}: {claim.removeprefix('grokking_')}" for judge, claim in COLUMNS]
    lines = [f"| kind | curves | grok | {' | '.join(heads)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    claims = [{(j, e.kind) for j, judge in JUDGES.items() for e in judge(curve.points)} for curve in judged]
    for kind in [*dict.fromkeys(curve.kind for curve in judged), "all"]:
        chosen = [(c, found) for c, found in zip(judged, claims, strict=True) if kind in (c.kind, "all")]
        cells = []
        for column in COLUMNS:
            asked = [
                (c, found) for c, found in chosen if c.points[0].val_accuracy is not None or column not in BY_ACCURACY
            ]
            truth = [c.improves if column[1] == "late_improvement" else c.groks for c, _ in asked]
            said = [column in found for _, found in asked]
            n, hits = sum(truth), sum(t and s for t, s in zip(truth, said, strict=True))
            false = sum(said) - hits
            if kind == "all":
                cells.append(f"{wilson(hits, n)} found, {wilson(false, len(asked) - n)} false")
            else:
                cells.append("-" if not asked else f"{hits} of {n}, {false} false" if n else f"{false} false")
        lines.append(f"| {kind} | {len(chosen)} | {sum(c.groks for c, _ in chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def moves(judged: list[Curve]) -> str:
    """Markdown: the onsets, and what was called lost again; and at how many the validation accuracy says otherwise.

    It does where it never is 0.05 above the plateau's after an onset, and where it is still there at a loss: 0.05 above
    the plateau's, and no more than 0.05 below its best.
    """
    lines = [
        "| judge | onsets | without a rise | relapses, collapses | with the accuracy still there |",
        "|---" * 5 + "|",
    ]
    for name in ("states", "losses alone"):
        onsets = [event for curve in judged for event in _moves_of(curve, name, ("grokking_onset",))]
        losses = [event for curve in judged for event in _moves_of(curve, name, ("relapse", "collapse"))]
        lines.append(f"| {name} | {len(onsets)} | {sum(onsets)} | {len(losses)} | {sum(losses)} |")
    return "\n".join(lines)


def _moves_of(curve: Curve, judge: str, kinds: tuple[str, ...]) -> list[bool]:
    """Of each event of these kinds, whether the validation accuracy says otherwise."""
    at = {p.step: index for index, p in enumerate(curve.points)}
    plateau, found = 0, []
    level = 0.0
    for event in JUDGES[judge](curve.points):
        index = at[event.step]
        if event.kind == "plateau":
            plateau = index
        if event.kind == "grokking_onset":
            level = float(np.median(curve.accuracies[plateau : index + 1]))
        if event.kind in kinds:
            now, best = max(curve.accuracies[max(0, index - 2) : index + 1]), max(curve.accuracies[: index + 1])
            no_rise = max(curve.accuracies[index:]) < level + 0.05
            still_there = now >= max(level, best - 0.1) + 0.05
            found.append(no_rise if event.kind == "grokking_onset" else still_there)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="train what this directory lacks, then judge")
    parser.add_argument("--table", type=Path, help="judge the curves of this directory")
    parser.add_argument("--tuning", action="store_true", help="the runs of the tuning, not the held-out")
    parser.add_argument("--small", action="store_true", help="the runs of a network of one hidden layer")
    options = parser.parse_args()
    directory = options.out or options.table
    held_out = [recipe for recipe in recipes() if recipe.held_out != options.tuning]
    chosen: list[Recipe | SmallRecipe] = [*small_recipes()] if options.small else [*held_out]
    if options.out:
        torch.set_num_threads(1)
        directory.mkdir(parents=True, exist_ok=True)
        for recipe in chosen:
            path = directory / f"{recipe.name}.csv"
            if not path.exists():
                started = time.process_time()
                write(train_small(recipe) if isinstance(recipe, SmallRecipe) else train(recipe), path)
                print(f"{path}: {time.process_time() - started:.0f} CPU-seconds", flush=True)
    judged = curves([(recipe, read_csv(directory / f"{recipe.name}.csv")) for recipe in chosen])
    print(f"{table(judged)}\n\n{moves(judged)}")


if __name__ == "__main__":
    main()
