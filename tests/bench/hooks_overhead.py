"""What the hooks cost at their default intervals, as a share of the training time.

    PYTHONPATH=. python tests/bench/hooks_overhead.py [--config RUN.yaml] [--steps 10000] [--out FILE.json]
    PYTHONPATH=. python tests/bench/hooks_overhead.py --languages 33 --corpus corpora/bible ...

The run's own hooks are called at each of so many steps, as they are in training, and before the first one: nothing is
scaled. Of the steps themselves only every 50th is trained, which gives the mean length of one; what a hook's call costs
does not depend on what was learned between. Seconds are of the process's CPU time, so that other work on the machine
counts little. Intervals are the defaults, whatever the run's YAML says; saving is not a hook and is left out.
--languages copies the translations of the corpus, in turn, under so many codes.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from genesis_ds.config import CheckpointConfig, RunConfig, SamplesConfig
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.corpus.storage import load_corpus, save_corpus
from genesis_ds.corpus.verses import Corpus
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.training.hooks import build_hooks, hook_context
from genesis_ds.training.open_run import open_run
from genesis_ds.training.preparation import plan_memory, prepare_operations, resolve_ds_config
from genesis_ds.training.trainer import Trainer

TRAINED = 50
"""One step in so many is trained."""
DEFAULT = ("evaluation", "alignment", "clustering", "connectives", "trajectory", "grokking", "log_every")
BEFORE, ON_THE_WAY, AT_THE_END = "before the first step", "on the way", "at the last step"


class Clock:
    """What the calls of the hooks take, in CPU seconds."""

    def __init__(self, hooks: dict[str, Hook]) -> None:
        self.now = BEFORE
        self.seconds = {when: dict.fromkeys(hooks, 0.0) for when in (BEFORE, ON_THE_WAY, AT_THE_END)}
        for name, hook in hooks.items():
            for method in ("before_training", "before_update", "on_step"):
                setattr(hook, method, self.timed(name, getattr(hook, method)))

    def timed(self, name: str, method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            started = time.process_time()
            method(*arguments)
            self.seconds[self.now][name] += time.process_time() - started

        return call


def main() -> None:
    own = OwnFlags()
    own.add_argument("--steps", type=int, default=10_000, help="steps of the run")
    own.add_argument("--languages", type=int, help="copies of the corpus's translations, under codes of their own")
    own.add_argument("--out", help="write the figures to this file")
    arguments = parse_arguments(sys.argv[1:], own, "hooks_overhead", "Measure the cost of the hooks.")
    options, ranks = arguments.options, Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    with tempfile.TemporaryDirectory() as folder:
        run = with_defaults(arguments.run, folder, options.steps)
        if options.languages:
            run = in_many_languages(run, options.languages, Path(folder))
        result = walk(open_trainer(dataclasses.replace(arguments, run=run), ranks), options.steps)
    distributed.leave()
    print(json.dumps(result, indent=1))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def walk(trainer: Trainer, n_steps: int) -> dict[str, Any]:
    """Go through the steps of the run with its hooks; what they took of it."""
    hooks = dict(trainer.hooks)
    clock, step_seconds, reported = Clock(hooks), [], {}
    for hook in hooks.values():
        hook.before_training(0)
    for step in range(1, n_steps + 1):
        clock.now = AT_THE_END if step == n_steps else ON_THE_WAY
        if step == 1 or step % TRAINED == 0:
            trainer.state.global_step = step - 1
            started = time.process_time()
            record = trainer.step()
            step_seconds.append(time.process_time() - started)
            reported = dict(record.metrics)
        else:
            record = StepRecord(step, n_steps, seconds=step_seconds[-1], n_tokens=1)
            for hook in hooks.values():
                hook.before_update(record)
            if record.due(trainer.run.intervals.log):
                record.metrics |= reported
        for hook in hooks.values():
            hook.on_step(record)
    for hook in hooks.values():
        hook.close()
    mean = fmean(step_seconds[1:])  # the first one warms up
    training = mean * n_steps
    shares = {name: seconds / training for name, seconds in clock.seconds[ON_THE_WAY].items()}
    return {
        "seconds per step": mean,
        "seconds": clock.seconds,
        "share of training, on the way": shares | {"all": sum(shares.values())},
        "share of training, with beginning and end": sum(sum(by.values()) for by in clock.seconds.values()) / training,
    }


def open_trainer(arguments: Arguments, ranks: Ranks) -> Trainer:
    """Open the run as a session does."""
    sampler, resolved = HostSampler(), resolve_ds_config(arguments, ranks)
    opened = open_run(arguments.run, resolved, ranks)
    opened.describe()
    prepare_operations(resolved)
    plan = plan_memory(opened.run, arguments, ranks)
    engine = Engine.build(opened.run, ranks=ranks, device=distributed.device(ranks))
    return Trainer(
        opened.run,
        engine=engine,
        tasks=opened.tasks,
        hooks=build_hooks(hook_context(opened, engine, plan, sampler)),
        checkpoints=opened.checkpoints,
        state=opened.state,
    )


def with_defaults(run: RunConfig, folder: str, n_steps: int) -> RunConfig:
    """The run with default intervals, in a folder of its own."""
    defaults = RunConfig()
    changes = {key: getattr(defaults, key) for key in DEFAULT}
    rare = {"samples": SamplesConfig(every=0, new_tokens=0), "checkpoint": CheckpointConfig(every=0)}
    length = {"max_steps": n_steps, "max_epochs": None, "max_tokens": None, "resume": "never", "output_dir": folder}
    return dataclasses.replace(run, **changes, **rare, **length)


def in_many_languages(run: RunConfig, n: int, folder: Path) -> RunConfig:
    """The run on the first n of en, es, ko, la, lb, lc, ..., the translations of its corpus in turn."""
    corpus = load_corpus(run.data.corpus)
    codes = ["en", "es", "ko", *(f"l{letter}{more}" for letter in "abcdefghij" for more in "abcdefghij")][:n]
    copies = [
        dataclasses.replace(corpus.translations[number % len(corpus.translations)], name=f"copy-{code}", language=code)
        for number, code in enumerate(codes)
    ]
    save_corpus(Corpus(tuple(copies), corpus.cross_references), folder / "corpus")
    data = dataclasses.replace(
        run.data, corpus=str(folder / "corpus"), languages=[], token_sets=str(folder / "token_sets")
    )
    return dataclasses.replace(run, data=data)


if __name__ == "__main__":
    main()
