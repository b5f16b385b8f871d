"""What our loop costs over a bare DeepSpeed loop: the same model, text, ds_config and steps, in turns in one process.

    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/loop_overhead.py [--rounds 10] [--steps 2] [--config RUN.yaml]

The bare loop is deepspeed.initialize, forward, cross-entropy, backward, step, and nothing besides: no head but the
decoder's, no meters, no skipped updates, no counting of tokens. Language modelling alone. In seconds of CPU time, as a
machine may do other work; a figure is the median over the rounds of the ratio within a round.
"""

import dataclasses
import json
import statistics
import sys
import time
from functools import partial

import deepspeed
import torch
from torch.optim.lr_scheduler import LambdaLR

from genesis_ds.bench.loops import bare_trainer
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.data.run_data import prepare_data
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import LM, build_model
from genesis_ds.tasks.lm import LanguageModelling, cross_entropy
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.tasks import open_tasks


class BareLoop:
    """DeepSpeed as its tutorial has it."""

    def __init__(self, run, resolved, task):
        torch.manual_seed(run.seed)
        model = build_model(run.model, run.activation_checkpointing)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=list(model.parameters()),
            config=resolved.config,
            lr_scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
        )
        self.run, self.task, self.position = run, task, 0

    def step(self):
        at_once = self.run.batch.micro_batch_size
        for _ in range(self.run.batch.global_batch_size // at_once):
            batch = self.task.batch(range(self.position, self.position + at_once)).to(self.engine.device)
            loss = cross_entropy(self.engine(LM, **batch.inputs).output, batch.labels["targets"])
            self.engine.backward(loss)
            self.engine.step()
            self.position += at_once


def main() -> None:
    own = OwnFlags()
    own.add_argument("--rounds", type=int, default=10, help="turns of each loop")
    own.add_argument("--steps", type=int, default=2, help="optimizer steps of a turn")
    arguments = parse_arguments(sys.argv[1:], own, "loop_overhead", "Compare our loop with a bare DeepSpeed loop.")
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    run = dataclasses.replace(arguments.run, model=fit_vocabulary(arguments.run), tasks={"lm": 1.0})
    resolved = resolve_ds_config(dataclasses.replace(arguments, run=run), ranks)
    data = prepare_data(run)
    ours = bare_trainer(run, resolved, open_tasks(run, data, ranks), ranks)
    bare = BareLoop(run, resolved, LanguageModelling(data.token_set, run.batch.seq_len, run.seed))
    loops = {"ours": ours, "bare": bare}
    seconds = {name: [] for name in loops}
    for number in range(arguments.options.rounds + 1):
        for name in loops if number % 2 else reversed(loops):
            started = time.process_time()
            for _ in range(arguments.options.steps):
                loops[name].step()
            seconds[name].append((time.process_time() - started) / arguments.options.steps)
    of_rounds = {name: found[1:] for name, found in seconds.items()}  # the first warms up
    ratios = [a / b for a, b in zip(*of_rounds.values(), strict=True)]
    spread = partial(statistics.quantiles, n=4)
    print(
        json.dumps(
            {
                "cpu_seconds_a_step": {name: statistics.median(found) for name, found in of_rounds.items()},
                "ours / bare": statistics.median(ratios),
                "quartiles": spread(ratios)[::2],
                "rounds": len(ratios),
            },
            indent=1,
        )
    )
    distributed.leave()


if __name__ == "__main__":
    main()
