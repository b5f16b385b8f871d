"""What the hooks cost at their default intervals, as a share of the training time.

    PYTHONPATH=. python tests/bench/hooks_overhead.py [--config RUN.yaml] [--steps 600] [--out FILE.json]

The run's own trainer and hooks work from step 4,000 - steps to step 4,000, where every hook is due. A hook's cost is
its mean time per call that is due, times its calls between steps 2,000 and 4,000, over 2,000 steps of the mean length:
so rare hooks count as often as they come. Nothing is trained before: it would not change what a call costs. Intervals
are the defaults, whatever the run's YAML says; saving is not a hook and is left out.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from genesis_ds.config import CheckpointConfig, RunConfig, SamplesConfig
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.training.hooks import build_hooks, hook_context
from genesis_ds.training.open_run import open_run
from genesis_ds.training.preparation import plan_memory, prepare_operations, resolve_ds_config
from genesis_ds.training.trainer import Trainer

FIRST, LAST = 2000, 4000
DUE = 0.002
"""Seconds: a shorter call had nothing to do but look at the step."""
DEFAULT = ("evaluation", "alignment", "clustering", "connectives", "trajectory", "grokking", "log_every")


class StepSeconds(Hook):
    """How long each step took, without the hooks."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, record: StepRecord) -> None:
        self.seconds.append(record.seconds)


class Clock:
    """A hook's calls, timed."""

    def __init__(self, hook: Hook) -> None:
        self.hook, self.seconds = hook, defaultdict[int, float](float)
        self.on_step, hook.on_step = hook.on_step, self

    def __call__(self, record: StepRecord) -> None:
        started = time.perf_counter()
        self.on_step(record)
        self.seconds[record.global_step] = time.perf_counter() - started

    def share(self, step_seconds: float) -> dict[str, float]:
        busy = {step: seconds for step, seconds in self.seconds.items() if seconds > DUE}
        idle = [seconds for step, seconds in self.seconds.items() if step not in busy]
        # A hook's interval: of the steps that divide the window and every busy step, the largest.
        every = next((n for n in (2000, 1000, 500, 200, 100, 50, 20, 10, 5, 1) if all(s % n == 0 for s in busy)), 1)
        per_call = sum(busy.values()) / len(busy) if busy else 0.0
        calls = (LAST - FIRST) // every if busy else 0
        total = per_call * calls + (sum(idle) / len(idle) if idle else 0.0) * (LAST - FIRST - calls)
        return {"seconds per call": per_call, "calls": calls, "share": total / (step_seconds * (LAST - FIRST))}


def main() -> None:
    own = OwnFlags()
    own.add_argument("--steps", type=int, default=600, help="steps to train before step 4,000")
    own.add_argument("--out", help="write the figures to this file")
    arguments = parse_arguments(sys.argv[1:], own, "hooks_overhead", "Measure the cost of the hooks.")
    options, ranks = arguments.options, Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    with tempfile.TemporaryDirectory() as folder:
        run = with_defaults(arguments.run, distributed.from_main(folder))
        step_seconds, shares = train(dataclasses.replace(arguments, run=run), ranks)
    distributed.leave()
    total = sum(hook["share"] for hook in shares.values())
    result = {"seconds per step": step_seconds, "hooks": shares, "all hooks / training": total}
    if ranks.is_main:
        print(json.dumps(result, indent=1))
        if options.out:
            Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def train(arguments: Arguments, ranks: Ranks) -> tuple[float, dict[str, dict[str, float]]]:
    """Train the last steps as a session does; the mean seconds of one, and the share of each hook."""
    sampler, resolved = HostSampler(), resolve_ds_config(arguments, ranks)
    opened = open_run(arguments.run, resolved, ranks)
    opened.state.global_step = LAST - arguments.options.steps
    if ranks.is_main:
        opened.describe()
    prepare_operations(resolved)
    plan = plan_memory(opened.run, arguments, ranks)
    engine = Engine.build(opened.run, ranks=ranks, device=distributed.device(ranks))
    hooks, steps = build_hooks(hook_context(opened, engine, plan, sampler)), StepSeconds()
    clocks = {name: Clock(hook) for name, hook in hooks.items()}
    trainer = Trainer(
        opened.run,
        engine=engine,
        tasks=opened.tasks,
        hooks={"step_seconds": steps, **hooks},
        checkpoints=opened.checkpoints,
        state=opened.state,
    )
    trainer.train()
    mean = sum(steps.seconds) / len(steps.seconds)
    return mean, {name: clock.share(mean) for name, clock in clocks.items()}


def with_defaults(run: RunConfig, folder: str) -> RunConfig:
    """The run with default intervals, in a folder of its own, ending at the last step."""
    defaults = RunConfig()
    changes = {key: getattr(defaults, key) for key in DEFAULT}
    rare = {"samples": SamplesConfig(every=0, new_tokens=0), "checkpoint": CheckpointConfig(every=0)}
    length = {"max_steps": LAST, "max_epochs": None, "max_tokens": None, "resume": "never", "output_dir": folder}
    return dataclasses.replace(run, **changes, **rare, **length)


if __name__ == "__main__":
    main()
