"""Modular addition by AdamW and by Muon, tuned alike: the step at which the pairs that are not trained on are known.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/muon_grokking.py --out DIRECTORY

Each optimizer is tuned with the seed TUNED_WITH on a grid of learning rates and weight decays, both 1, 3, 10 and so on
of some power of ten: from START to the best neighbour until no neighbour is better, so that the best is never at the
edge of what was tried. What is found trains SEEDS, of the weights and of the pairs. A run is a file in the directory,
and one that is there is not trained again. Prints both tables, and the ratio of the steps of the two with its interval
over the seeds.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import published_runs
from published_runs import Recipe, finish, load

from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks

OPTIMIZERS = ("adamw", "muon")
START = (-5, 0)
"""Where the search begins, as exponents of the grid: lr 3e-3 and weight decay 1, those of the control."""
TUNED_WITH, SEEDS, SIDES = 100, (0, 1, 2, 3, 4), ("train_subset", "validation")
STEPS, KNOWN = 800, 0.95
T_95 = 2.776
"""Of Student's distribution for five seeds."""
COMMON = {"max_steps": STEPS, "evaluation.every": 10, "trajectory.every": 0}


def recipe(optimizer: str, rate: float, decay: float, seed: int) -> Recipe:
    """Return a run of modular_addition.yaml."""
    flags = {"optimizer.name": optimizer, "optimizer.lr": rate, "optimizer.weight_decay": decay}
    seeds = {"seed": seed, "arithmetic.split_seed": seed}
    return Recipe("muon", f"{optimizer}-lr{rate:g}-wd{decay:g}-s{seed}", {**COMMON, **flags, **seeds})


def trained(of: Recipe, directory: Path) -> dict[str, Any]:
    """Return the file of a run, trained where it is not there."""
    if load(of, directory) is None:
        finish(of, directory)
    found = load(of, directory)
    assert found is not None
    return found


def first(of: Recipe, directory: Path, side: str) -> float:
    """Return the step of the first evaluation that knows the pairs of a side; infinite where none does."""
    rows = trained(of, directory)["rows"]
    key = f"val/{side}/arithmetic/accuracy"
    return next((row["step"] for row in rows if row.get(key, 0.0) >= KNOWN), float("inf"))


def on_grid(exponent: int) -> float:
    """Return 1, 3, 10, 30 and so on, and what is below 1."""
    return float(f"{(1, 3)[exponent % 2]}e{exponent // 2}")


def tuned(optimizer: str, directory: Path) -> tuple[float, float]:
    """Return the rate and the decay with which the pairs are known first; print what was tried."""
    tried: dict[tuple[int, int], float] = {}
    best, missing = START, [START]
    while missing:
        for point in missing:
            rate, decay = map(on_grid, point)
            tried[point] = first(recipe(optimizer, rate, decay, TUNED_WITH), directory, "validation")
            print(f"| {optimizer} | {rate:g} | {decay:g} | {tried[point]:g} |", flush=True)
        best = min(tried, key=tried.__getitem__)
        rate_at, decay_at = best
        beside = [(rate_at - 1, decay_at), (rate_at + 1, decay_at), (rate_at, decay_at - 1), (rate_at, decay_at + 1)]
        missing = [point for point in beside if point not in tried]
    return on_grid(best[0]), on_grid(best[1])


def ratio(of: list[float], to: list[float]) -> str:
    """Return the geometric mean of the ratios of the seeds, with its 95 % interval by Student's t."""
    logs = [math.log(a / b) for a, b in zip(of, to, strict=True)]
    if not all(map(math.isfinite, logs)):
        return "no ratio: a seed did not come so far"
    mean, half = statistics.mean(logs), T_95 * statistics.stdev(logs) / math.sqrt(len(logs))
    return "{:.2f} ({:.2f} - {:.2f})".format(*map(math.exp, (mean, mean - half, mean + half)))


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs' files")
    directory: Path = parser.parse_args().out
    directory.mkdir(parents=True, exist_ok=True)
    published_runs.DONE = KNOWN
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    print("| optimizer | lr | weight decay | known at step |")
    chosen = {optimizer: tuned(optimizer, directory) for optimizer in OPTIMIZERS}
    print("| optimizer | lr, weight decay | trained pairs known at | others known at | median |")
    known: dict[str, list[float]] = {}
    for optimizer, (rate, decay) in chosen.items():
        runs = [recipe(optimizer, rate, decay, seed) for seed in SEEDS]
        memorised, known[optimizer] = ([first(run, directory, side) for run in runs] for side in SIDES)
        shown = [", ".join(f"{step:g}" for step in steps) for steps in (memorised, known[optimizer])]
        median = statistics.median(known[optimizer])
        print(f"| {optimizer} | {rate:g}, {decay:g} | {shown[0]} | {shown[1]} | {median:g} |", flush=True)
    print(f"muon's steps over adamw's: {ratio(known['muon'], known['adamw'])}")
    distributed.leave()


if __name__ == "__main__":
    main()
