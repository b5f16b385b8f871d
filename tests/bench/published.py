"""Published findings on grokking, by this program's own training.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/published.py --out published [--study shares] [--pictures docs]

Every finished run is a file in --out, and a second call goes on with the others.
"""

import argparse
from pathlib import Path

import torch
from published_runs import finish, load, recipes

from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import Ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="train what this directory lacks")
    parser.add_argument("--study", action="append", help="shares, scales, power or nanda; may be given several times")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    for recipe in recipes():
        if (options.study is None or recipe.study in options.study) and load(recipe, options.out) is None:
            seconds = finish(recipe, options.out)
            print(f"{recipe.name}: {seconds:.0f} CPU-seconds", flush=True)
    distributed.leave()


if __name__ == "__main__":
    main()
