"""Published findings on grokking, by this program's own training.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/published.py --out published [--only shares] [--pictures docs]

Every finished run is a file in --out, and a second call goes on with the others. All of them take some 32 CPU-minutes.
"""

import argparse
from pathlib import Path

import torch
from published_pictures import draw
from published_runs import finish, load, recipes

from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="train what this directory lacks")
    parser.add_argument(
        "--only", default="", help="the runs whose names begin so: shares, two_layers, scales-4, power, nanda"
    )
    parser.add_argument("--pictures", type=Path, help="train nothing, draw the finished runs into this directory")
    options = parser.parse_args()
    chosen = [recipe for recipe in recipes() if recipe.name.startswith(options.only)]
    if options.pictures:
        draw([run for recipe in chosen if (run := load(recipe, options.out))], options.pictures)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    for recipe in chosen:
        if load(recipe, options.out) is None:
            seconds = finish(recipe, options.out)
            print(f"{recipe.name}: {seconds:.0f} CPU-seconds", flush=True)
    distributed.leave()


if __name__ == "__main__":
    main()
