"""What compiled blocks gain and keep on this machine: eager and compiled, at three memory budgets, side by side.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/compiled_blocks.py --config launch/runs/quickstart.yaml
        [--ds_configs ds_configs/zero2_offload.json ds_configs/zero3_offload.json] [--rounds 5] [--steps 1] [--out FILE]

For each ds_config, whole rows (language modelling alone) and packed verses (coherence alone) are trained by loops that
differ only in SETTINGS. Each loop has a process of its own, as a graph belongs to its process, and they take turns: a
figure is the median over the rounds, with their range, of a loop's CPU seconds over those of the first loop in the same
round. Beside them stand the highest memory of the process since it was warm, the graphs, and how far any loss of these
steps is from the first loop's.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from recomputation import peak_bytes

from genesis_ds.bench.loops import bare_trainer
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.data.run_data import prepare_data
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.metrics import TRAIN_LOSS, of_task
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.tasks import open_tasks

RECOMPUTED, COMPILED = "--activation_checkpointing.mode", ["--compile.when", "always"]
SETTINGS = {
    "eager": ["--compile.when", "never", RECOMPUTED, "none"],
    "eager, blocks recomputed": ["--compile.when", "never", RECOMPUTED, "block"],
    "compiled, budget 1": [*COMPILED, RECOMPUTED, "none"],
    "compiled, budget 0.3": [*COMPILED, RECOMPUTED, "none", "--compile.activation_memory_budget", "0.3"],
    "compiled, budget 0.1": [*COMPILED, RECOMPUTED, "none", "--compile.activation_memory_budget", "0.1"],
    "compiled, blocks recomputed": [*COMPILED, RECOMPUTED, "block"],
}
"""Flags by the loop's name."""
ROWS = {"whole rows": "lm", "packed verses": "coherence"}
"""The one task that is trained."""
DS_CONFIGS = ["ds_configs/zero2_offload.json", "ds_configs/zero3_offload.json"]
WARM_UP = 3


def train(pipe: Connection, given: Sequence[str], task: str) -> None:
    """Be one loop: take as many steps as the pipe asks for, and tell of them, until it asks for none."""
    arguments = parse_arguments([*given, "--log_every", "1"], OwnFlags(), "compiled_blocks", "A loop.")
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    run = dataclasses.replace(arguments.run, tasks={task: 1.0})
    resolved = resolve_ds_config(dataclasses.replace(arguments, run=run), ranks)
    trainer = bare_trainer(run, resolved, open_tasks(run, prepare_data(run), ranks), ranks)
    while n_steps := pipe.recv():
        began, losses = time.process_time(), []
        for _ in range(n_steps):
            losses.append(trainer.step().metrics[of_task(TRAIN_LOSS, task)])
        seconds, blocks = time.process_time() - began, trainer.engine.compiled_blocks
        graphs = blocks.n_graphs() if blocks else 0
        pipe.send({"seconds": seconds / n_steps, "losses": losses, "bytes": peak_bytes(), "graphs": graphs})
    distributed.leave()


@contextmanager
def loop(given: Sequence[str], task: str) -> Iterator[Connection]:
    """A process that trains, for as long as its context: the end of its pipe that asks."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=train, args=(its, given, task))
    process.start()
    its.close()
    try:
        yield ours
        ours.send(0)
        process.join(60)
    finally:
        process.terminate()


def ask(pipe: Connection, n_steps: int) -> Any:
    """Have a loop take steps."""
    pipe.send(n_steps)
    return pipe.recv()


def compare(given: Sequence[str], task: str, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Measure all loops of one ds_config and kind of row, in turns."""
    with ExitStack() as open_loops:
        pipes = {name: open_loops.enter_context(loop([*given, *flags], task)) for name, flags in SETTINGS.items()}
        for pipe in pipes.values():
            ask(pipe, WARM_UP)
        turns = [{name: ask(pipe, steps) for name, pipe in pipes.items()} for _ in range(rounds)]
    found = {}
    for name in SETTINGS:
        first = [turn["eager"] for turn in turns]
        own = [turn[name] for turn in turns]
        ratios = [one["seconds"] / other["seconds"] for one, other in zip(own, first, strict=True)]
        apart = [
            abs(a - b) / b
            for one, other in zip(own, first, strict=True)
            for a, b in zip(one["losses"], other["losses"], strict=True)
        ]
        found[name] = {
            "seconds a step": statistics.median(turn["seconds"] for turn in own),
            "/ eager": [statistics.median(ratios), min(ratios), max(ratios)],
            "GiB": max(turn["bytes"] for turn in own) / 2**30,
            "graphs": own[-1]["graphs"],
            "losses apart": max(apart),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare compiled blocks with eager ones; other flags are the run's.")
    parser.add_argument("--ds_configs", nargs="+", default=DS_CONFIGS)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps of a turn")
    parser.add_argument("--out", type=Path, help="write the figures to this file, after each table")
    own, of_run = parser.parse_known_args()
    found = {}
    for ds_config in own.ds_configs:
        for rows, task in ROWS.items():
            table = compare([*of_run, "--ds_config", ds_config], task, own.rounds, own.steps)
            found[f"{Path(ds_config).stem}, {rows}"] = table
            print(f"{Path(ds_config).stem}, {rows}", *lines(table), sep="\n", flush=True)
            if own.out:
                own.out.write_text(json.dumps(found, indent=1) + "\n")


def lines(table: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a table in Markdown."""
    yield "| blocks | s a step | / eager | GiB | graphs | losses apart |"
    yield "|---|---|---|---|---|---|"
    for name, of in table.items():
        ratio, low, high = of["/ eager"]
        yield (
            f"| {name} | {of['seconds a step']:.2f} | {ratio:.2f} ({low:.2f}-{high:.2f}) | {of['GiB']:.2f} "
            f"| {of['graphs']} | {of['losses apart']:.0e} |"
        )


if __name__ == "__main__":
    main()
