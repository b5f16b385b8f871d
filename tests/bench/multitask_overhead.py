"""What the verse tasks cost, and what packing gains, in tokens a second that are not padding.

    PYTHONPATH=. python tests/bench/multitask_overhead.py [--config RUN.yaml] [--batch.seq_len 512] [--rounds 5]

Three loops over the real corpus take turns in one process group, with the same decoder and the same rows per step:

    lm       language modelling alone, no heads
    mixed    the run's tasks: whole blocks of slots, so exactly the weights
    padded   every verse in a row of its own, padded to seq_len, as a simple loop does it

Each round trains whole blocks of slots of each; a figure is the median over the rounds of the ratio within a round, so
that a busy machine slows all three alike. torchrun and the deepspeed launcher start it on several ranks.
"""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genesis_ds.bench.loops import PaddedVerses, bare_trainer
from genesis_ds.config import RunConfig
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.data.run_data import prepare_data
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import LM
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.tasks import open_tasks
from genesis_ds.training.trainer import Trainer

WARM_UP = 3


def main() -> None:
    own = OwnFlags()
    own.add_argument("--rounds", type=int, default=5, help="blocks of slots of each loop")
    own.add_argument("--out", help="write the figures to this file")
    arguments = parse_arguments(sys.argv[1:], own, "multitask_overhead", "Measure the cost of the verse tasks.")
    ranks = Ranks.from_environment()
    resolved = resolve_ds_config(arguments, ranks)
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    run = dataclasses.replace(arguments.run, model=fit_vocabulary(arguments.run))
    data = distributed.first_on_each_node(lambda: prepare_data(run), ranks)
    lm_only = dataclasses.replace(run, tasks={"lm": 1.0})
    padded = open_tasks(lm_only, data, ranks)
    rows = PaddedVerses(data.token_set, run.batch.seq_len, run.seed)
    padded.tasks[LM] = rows
    loops = {
        "lm": open_tasks(lm_only, data, ranks),
        "mixed": open_tasks(run, data, ranks),
        "padded": padded,
    }
    trainers = {name: bare_trainer(run, resolved, tasks, ranks) for name, tasks in loops.items()}
    result = measure(run, trainers, arguments.options.rounds, distributed.device(ranks))
    result["mean_verse_tokens"] = float(rows.verses.lengths.mean())
    result["seq_len / mean verse"] = run.batch.seq_len / result["mean_verse_tokens"]
    if ranks.is_main:
        print(json.dumps(result, indent=1))
        if arguments.options.out:
            Path(arguments.options.out).write_text(json.dumps(result, indent=1) + "\n")
    distributed.leave()


def measure(run: RunConfig, trainers: Mapping[str, Trainer], rounds: int, device: torch.device) -> dict[str, Any]:
    mixture = trainers["mixed"].tasks.mixture
    sequences = len(mixture.stretches[0].block) * mixture.slot_sequences
    steps = math.lcm(sequences, run.batch.global_batch_size) // run.batch.global_batch_size
    for loop in trainers.values():
        for _ in range(WARM_UP):
            loop.step()
        loop.state.consumed_samples = 0  # rounds begin at blocks of slots
    speeds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, loop in trainers.items():
            records = [loop.step() for _ in range(steps)]
            (tokens,) = distributed.sum_over_ranks([sum(record.n_tokens for record in records)], device)
            speeds[name].append(tokens / sum(record.seconds for record in records))

    def ratio(name: str, other: str) -> dict[str, float]:
        ratios = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
        return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}

    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "seq_len": run.batch.seq_len,
        "steps per round": steps,
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "mixed / lm": ratio("mixed", "lm"),
        "mixed / padded": ratio("mixed", "padded"),
    }


if __name__ == "__main__":
    main()
