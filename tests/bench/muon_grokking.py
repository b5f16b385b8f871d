"""Modular addition by AdamW and by Muon, tuned alike: the step at which the pairs that are not trained on are known.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/muon_grokking.py --out DIRECTORY

Each optimizer is tuned with the seed TUNED_WITH: the learning rate at the control's weight decay, then the weight
decay at the best rate. What is found trains SEEDS, of the weights and of the pairs. A run is a file in the directory,
and one that is there is not trained again. Prints both tables.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import published_runs
from published_runs import Recipe, finish, load

from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import Ranks

OPTIMIZERS = ("adamw", "muon")
RATES, DECAYS = (1e-3, 3e-3, 1e-2), (0.3, 1.0, 3.0)
TUNED_WITH, SEEDS = 100, (0, 1, 2, 3, 4)
STEPS, KNOWN = 800, 0.95
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


def tuned(optimizer: str, directory: Path) -> tuple[float, float]:
    """Return the rate and the decay with which the pairs are known first; print what was tried."""

    def steps(rate: float, decay: float) -> float:
        found = first(recipe(optimizer, rate, decay, TUNED_WITH), directory, "validation")
        print(f"| {optimizer} | {rate:g} | {decay:g} | {found:g} |", flush=True)
        return found

    best, rate = min((steps(rate, 1.0), rate) for rate in RATES)
    others = [(steps(rate, decay), decay) for decay in DECAYS if decay != 1.0]
    return rate, min([(best, 1.0), *others])[1]


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
    for optimizer, (rate, decay) in chosen.items():
        runs = [recipe(optimizer, rate, decay, seed) for seed in SEEDS]
        memorised, known = ([first(run, directory, side) for run in runs] for side in ("train_subset", "validation"))
        shown = [", ".join(f"{step:g}" for step in steps) for steps in (memorised, known)]
        print(
            f"| {optimizer} | {rate:g}, {decay:g} | {shown[0]} | {shown[1]} | {statistics.median(known):g} |",
            flush=True,
        )
    distributed.leave()


if __name__ == "__main__":
    main()
