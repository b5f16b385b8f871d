"""The training runs of published.py, by the product's own engine and hooks, and their files."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import HostSampler
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import build_model
from genesis_ds.training.hooks import build_hooks, hook_context
from genesis_ds.training.open_run import open_run
from genesis_ds.training.preparation import plan_memory, prepare_operations, resolve_ds_config
from genesis_ds.training.trainer import Trainer

RUN = Path(__file__).parents[2] / "launch/runs/modular_addition.yaml"
CURVE = "lm/arithmetic"
HOOKS = ("tasks", "trajectory", "health", "progress", "grokking", "ranks")
"""The hooks that measure; the others write, or look at the machine."""
COMMON = {"log_every": 100000, "evaluation.every": 25, "evaluation.per_decade": 8}
DONE = 0.99
"""Validation accuracy after which a run may end."""
SMALL = {"model.dim": 64, "model.n_heads": 2, "model.intermediate_size": 128, "evaluation.max_windows": 0}
SMALL |= {"batch.global_batch_size": 128, "batch.micro_batch_size": 128, "optimizer.lr": 5e-3, "max_steps": 1200}
"""Flags of a run at p 31, all of whose pairs are evaluated."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    study: str
    name: str
    flags: dict[str, Any]
    """Flags of `genesis-ds train` beside those of modular_addition.yaml."""
    initial_scale: float = 1.0
    """What the matrices are multiplied by before the first step."""
    ends_early: bool = True
    """Whether it ends a quarter after the validation accuracy has reached DONE."""


def recipes() -> list[Recipe]:
    """Return all runs, those of a study together and the shortest studies first."""
    return [*power(), *scales(), *nanda(), *shares(), *two_layers()]


def power() -> list[Recipe]:
    """Power et al., arXiv 2201.02177, figure 1: the shipped control, mod 97 from 30 % of its pairs."""
    return [Recipe("power", "power", {"max_steps": 1000, "seed": 0}, ends_early=False)]


def nanda() -> list[Recipe]:
    """Nanda et al., arXiv 2301.05217: progress measures of addition mod 113 from 30 % of the pairs."""
    flags = {"arithmetic.modulus": 113, "max_steps": 800, "seed": 0, "trajectory.every": 50}
    return [Recipe("nanda", "nanda", flags, ends_early=False)]


def small(operation: str, share: float, seed: int) -> dict[str, Any]:
    """Return the flags of a run at p 31."""
    pairs = {"arithmetic.modulus": 31, "arithmetic.operation": operation, "arithmetic.train_share": share}
    return SMALL | pairs | {"arithmetic.split_seed": seed, "seed": seed}


def scales() -> list[Recipe]:
    """Omnigrok, arXiv 2210.01117: the delay grows with the scale of the initial weights."""
    return [
        Recipe("scales", f"scales-{scale:g}-s{seed}", small("add", 0.7, seed), initial_scale=scale)
        for seed in (0, 1, 2)
        for scale in (0.5, 1.0, 2.0, 4.0)
    ]


def shares() -> list[Recipe]:
    """Power et al., section 3.1: steps until the rule is found, by operation and share of the pairs."""
    return [
        Recipe("shares", f"shares-{operation}-{share:g}-s{seed}", small(operation, share, seed))
        for operations in (("add", "multiply"), ("subtract", "divide"))
        for seed in (0, 1, 2)
        for operation in operations
        for share in (0.7, 0.55, 0.4)
    ]


def two_layers() -> list[Recipe]:
    """The same, with two layers as in the paper, of the operations for which the order of the numbers matters."""
    longer = {"model.n_layers": 2, "max_steps": 3000}
    return [
        Recipe("two_layers", f"two_layers-{operation}-{share:g}-s{seed}", small(operation, share, seed) | longer)
        for share in (0.7, 0.55, 0.4)
        for seed in (0, 1, 2)
        for operation in ("subtract", "divide")
    ]


def train(recipe: Recipe) -> dict[str, Any]:
    """Train a run and return its file's content: what was measured, the events, CPU-seconds."""
    with tempfile.TemporaryDirectory() as directory:
        return _train(recipe, Path(directory))


def _train(recipe: Recipe, directory: Path) -> dict[str, Any]:
    started = time.process_time()
    ds_config = directory / "fp32.json"
    ds_config.write_text('{"zero_optimization": {"stage": 0}}\n')
    argv = ["--config", str(RUN), "--ds_config", str(ds_config)]
    argv += ["--output_dir", str(directory), "--name", recipe.name, "--resume", "never", "--checkpoint.every", "0"]
    for key, value in (COMMON | recipe.flags).items():
        argv += [f"--{key}", str(value)]
    arguments = parse_arguments(argv, OwnFlags(), "published", "Train a published run.")
    ranks, resolved = Ranks.from_environment(), resolve_ds_config(arguments, Ranks.from_environment())
    sampler = HostSampler()
    opened = open_run(arguments.run, resolved, ranks)
    prepare_operations(resolved)
    plan = plan_memory(opened.run, arguments, ranks)
    initial = scaled(opened.run, recipe.initial_scale) if recipe.initial_scale != 1 else {}
    engine = Engine.build(opened.run, ranks=ranks, device=distributed.device(ranks), initial=initial)
    hooks = build_hooks(hook_context(opened, engine, plan, sampler))
    trainer = Trainer(
        opened.run,
        engine=engine,
        tasks=opened.tasks,
        hooks={name: hooks[name] for name in HOOKS if name in hooks},
        checkpoints=opened.checkpoints,
        state=opened.state,
    )
    try:
        rows, events = measure(trainer, recipe.ends_early)
    finally:
        sampler.close()
        engine.destroy()
    return {"recipe": vars(recipe), "rows": rows, "events": events, "cpu_seconds": time.process_time() - started}


def measure(trainer: Trainer, ends_early: bool) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Train to the end; return what the hooks have measured at each evaluation, and the events."""
    rows: list[dict[str, float]] = []
    events: list[dict[str, Any]] = []
    end = trainer.run.n_steps
    for hook in trainer.hooks.values():
        hook.before_training(0)
    while trainer.state.global_step < end:
        record = trainer.step()
        for hook in trainer.hooks.values():
            hook.on_step(record)
        events += [vars(event) for event in record.events.get(CURVE, ())]
        if CURVE in record.curves:
            rows.append({"step": record.global_step, **record.metrics})
            found = record.curves[CURVE].val_accuracy or 0.0
            if ends_early and found >= DONE and end == trainer.run.n_steps:
                end = min(end, max(int(1.25 * record.global_step), record.global_step + 100))
    return rows, events


def scaled(run: ResolvedRun, scale: float) -> dict[str, Callable[[], Tensor]]:
    """Return the run's initial matrices times a scale, by the model's names."""
    torch.manual_seed(run.config.seed)
    model = build_model(run.model, run.config.activation_checkpointing)
    matrices = {name: weight.detach() for name, weight in model.named_parameters() if weight.ndim == 2}
    return {name: partial(torch.mul, weight, scale) for name, weight in matrices.items()}


def load(recipe: Recipe, directory: Path) -> dict[str, Any] | None:
    """Return the file of a finished run; None where it is not finished."""
    path = directory / f"{recipe.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def finish(recipe: Recipe, directory: Path) -> float:
    """Train a run and write its file, all at once; return the CPU-seconds."""
    content = train(recipe)
    partial_file = directory / f"{recipe.name}.part"
    partial_file.write_text(json.dumps(content) + "\n")
    partial_file.rename(directory / f"{recipe.name}.json")
    return float(content["cpu_seconds"])
