"""A plain PyTorch loop beside our engine: tokens a second that are not padding, on the same text and the same model.

    python tests/gpu/plain_loop.py --config launch/runs/rtx4070_optimal.yaml --json FILE.json [--rounds 2] [--seconds 4]

Five loops take turns, language modelling alone, with the same model, rows and rows per step:

    as_is          as people write it: bf16 weights, math attention, one padded verse a row, AdamW as it comes
    best           as good as a simple one gets: fp32 weights and autocast, fused attention, packed rows, fused AdamW
    best_compiled  the same, each block compiled by torch.compile
    zero2          our engine and trainer, all of it on the GPU, blocks compiled as the run says
    zero2_offload  the same, the optimizer on the host

Each turn builds its loop anew, since not all fit a small card at once. A ratio is the median over the rounds of the
ratio within a round. On a CPU, where bf16 is slow and nothing is fused, all of it is in fp32 and shows nothing.
"""

import dataclasses
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import bare_trainer
from helpers.padded_verses import PaddedVerses
from recording import ROOT

from genesis_ds.config import RunConfig
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.data.run_data import Text, prepare_data
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.model.multitask import LM, build_model
from genesis_ds.tasks.lm import LanguageModelling
from genesis_ds.training.preparation import resolve_ds_config
from genesis_ds.training.tasks import open_tasks

WARM_UP = 3
"""Optimizer steps before the measured ones of a turn; the last of them says how many are measured."""
OURS = ("zero2", "zero2_offload")


class Loop(Protocol):
    """Something that trains."""

    def step(self) -> int:
        """One optimizer step; its tokens that are not padding."""
        ...


class PlainLoop:
    """A training loop as one writes it without a framework."""

    def __init__(
        self,
        run: RunConfig,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        task: LanguageModelling,
        autocast: Callable[[], AbstractContextManager[Any]],
        kernels: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        """autocast: what the forward pass runs in; kernels: what the whole step does."""
        self.run, self.model, self.optimizer, self.task = run, model, optimizer, task
        self.autocast, self.kernels, self.device, self.position = autocast, kernels, device, 0

    def step(self) -> int:
        with self.kernels():
            return self.optimizer_step()

    def optimizer_step(self) -> int:
        """The loop itself."""
        batch_size, n_tokens = self.run.batch, 0
        n_micro_steps = batch_size.global_batch_size // batch_size.micro_batch_size
        for _ in range(n_micro_steps):
            batch = self.task.batch(range(self.position, self.position + batch_size.micro_batch_size))
            batch = batch.to(self.device)
            with self.autocast():
                loss, _ = self.task.loss(self.model(LM, **batch.inputs).output, batch)
            (loss / n_micro_steps).backward()
            self.position += batch_size.micro_batch_size
            n_tokens += batch.n_tokens
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.optimizer.gradient_clipping)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return n_tokens


class OurLoop:
    """Our trainer and engine, without hooks."""

    def __init__(self, arguments: Arguments, run: RunConfig, data: Text, name: str, ranks: Ranks) -> None:
        with_ds_config = dataclasses.replace(arguments, ds_config_file=str(ROOT / f"ds_configs/{name}.json"))
        tasks = open_tasks(run, data, ranks)
        self.trainer = bare_trainer(run, resolve_ds_config(with_ds_config, ranks), tasks, ranks)

    def step(self) -> int:
        return self.trainer.step().n_tokens


@contextmanager
def our_loop(*what: Any) -> Iterator[Loop]:
    """The loop for a turn; afterwards its engine is gone."""
    loop = OurLoop(*what)
    try:
        yield loop
    finally:
        loop.trainer.engine.destroy()


@contextmanager
def plain_loop(
    run: RunConfig, data: Text, device: torch.device, *, is_best: bool, compiles: bool = False
) -> Iterator[Loop]:
    """The simple loop for a turn: as good as it gets, or as people write it."""
    torch.manual_seed(run.seed)
    config = dataclasses.replace(run.model, attention="sdpa")
    model = build_model(config, run.activation_checkpointing).to(device)
    if compiles:
        for block in model.base.layers:
            block.compile()
    on_gpu = device.type == "cuda"
    optimizer = partial(
        torch.optim.AdamW, lr=run.optimizer.lr, betas=run.optimizer.betas, weight_decay=run.optimizer.weight_decay
    )
    text = data.token_set, run.batch.seq_len, run.seed
    if is_best:
        fused = optimizer(model.parameters(), fused=on_gpu)
        autocast = partial(torch.autocast, "cuda", torch.bfloat16) if on_gpu else nullcontext
        yield PlainLoop(run, model, fused, LanguageModelling(*text), autocast, nullcontext, device)
    else:
        model = model.bfloat16() if on_gpu else model
        as_it_comes = optimizer(model.parameters())
        math = partial(sdpa_kernel, SDPBackend.MATH)
        yield PlainLoop(run, model, as_it_comes, PaddedVerses(*text), nullcontext, math, device)


def turn(build: Callable[[], AbstractContextManager[Loop]], seconds: float, device: torch.device) -> dict[str, Any]:
    """Build a loop, warm it up and measure it for about so many seconds; or that the card does not hold it."""
    on_gpu = device.type == "cuda"
    synchronise: Callable[[], None] = torch.cuda.synchronize if on_gpu else lambda: None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        with build() as loop:
            for _ in range(WARM_UP):
                synchronise()
                started = time.perf_counter()
                loop.step()
                synchronise()
            steps = max(1, int(seconds / (time.perf_counter() - started)))
            started = time.perf_counter()
            n_tokens = sum(loop.step() for _ in range(steps))
            synchronise()
            took = time.perf_counter() - started
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        loop = None
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"tokens_per_second": n_tokens / took, "steps": steps, "tokens": n_tokens, "gpu_allocated": peak}


def summarise(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Median speeds, and the ratio of each of ours to each plain loop: median, least and most of the rounds."""
    speeds = {name: [t["tokens_per_second"] for t in of if "out_of_memory" not in t] for name, of in turns.items()}

    def ratio(ours: str, plain: str) -> dict[str, float] | None:
        ratios = [a / b for a, b in zip(speeds[ours], speeds[plain], strict=False)]
        return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None

    pairs = itertools.product(OURS, [name for name in turns if name not in OURS])
    return {
        "tokens_per_second": {name: statistics.median(found) if found else None for name, found in speeds.items()},
        "ratios": {f"{ours} / {plain}": ratio(ours, plain) for ours, plain in pairs},
        "turns": turns,
    }


def main() -> None:
    own = OwnFlags()
    own.add_argument("--json", required=True, help="the file to write")
    own.add_argument("--rounds", type=int, default=2, help="turns of each loop")
    own.add_argument("--seconds", type=float, default=4, help="measured in a turn, about")
    arguments = parse_arguments(sys.argv[1:], own, "plain_loop", "Compare a plain PyTorch loop with our engine.")
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    run = dataclasses.replace(arguments.run, model=fit_vocabulary(arguments.run), tasks={"lm": 1.0})
    data, device = prepare_data(run), distributed.device(ranks)
    loops: dict[str, Callable[[], AbstractContextManager[Loop]]] = {
        "as_is": lambda: plain_loop(run, data, device, is_best=False),
        "best": lambda: plain_loop(run, data, device, is_best=True),
        "best_compiled": lambda: plain_loop(run, data, device, is_best=True, compiles=True),
        **{name: partial(our_loop, arguments, run, data, name, ranks) for name in OURS},
    }
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in loops}
    for _ in range(arguments.options.rounds):
        for name, build in loops.items():
            turns[name].append(turn(build, arguments.options.seconds, device))
    mean_verse = float(PaddedVerses(data.token_set, run.batch.seq_len, run.seed).verses.lengths.mean())
    result = {
        "model": f"{run.model.n_layers} layers x {run.model.dim}, {run.model.n_parameters:,} parameters",
        "corpus": run.data.corpus,
        "seq_len": run.batch.seq_len,
        "rows": [run.batch.micro_batch_size, run.batch.global_batch_size],
        "activation_checkpointing": run.activation_checkpointing.mode,
        "seq_len / mean verse": run.batch.seq_len / mean_verse,
        **summarise(turns),
    }
    Path(arguments.options.json).write_text(json.dumps(result, indent=1) + "\n")
    distributed.leave()


if __name__ == "__main__":
    main()
