"""`genesis-ds bench --against`: our loop and those that could stand in its place, in turns in one process."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from genesis_ds.bench.loops import BuildLoop, PaddedVerses, our_loop, rivals
from genesis_ds.config import DistillConfig, MaskingConfig, RunConfig
from genesis_ds.config.parse import Arguments
from genesis_ds.data.run_data import Text, prepare_data
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.heap import map_from
from genesis_ds.engine.meter import Meter, host_bytes
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import MIB, format_bytes, parse_size
from genesis_ds.model.multitask import LM
from genesis_ds.training.preparation import resolve_ds_config

UNTUNED = 32 * MIB
"""Bytes from which glibc ends up mapping a buffer by itself: what a loop has that leaves malloc alone."""
PRECISION = 8
"""A largest size is found to an eighth."""
LEFT_OUT = ("tasks", "masking", "distill", "memorisation.canaries", "data.chapter_order")
"""Fields of a run in which the loops beside ours have no part."""


def compare(arguments: Arguments, ranks: Ranks) -> dict[str, Any]:
    """Let the run's loop and its rivals take turns; return speeds, memory and ratios as plain data.

    Raises UserError for more than one rank, for a run that is not of text, and where a rival is not installed.
    """
    options = arguments.options
    if ranks.world_size > 1:
        raise UserError(f"--against: of one process, and there are {ranks.world_size}; start it without a launcher")
    run = dataclasses.replace(language_modelling(arguments.run), model=fit_vocabulary(arguments.run))
    if run.extensions.model or run.arithmetic.modulus:
        raise UserError("--against: compares the decoder on text; leave out arithmetic and extensions.model")
    limit = parse_size(options.largest, "--largest") if options.largest else None
    device = distributed.device(ranks)
    data = prepare_data(run)
    assert isinstance(data, Text)

    def loops(of: RunConfig) -> dict[str, BuildLoop]:
        resolved = resolve_ds_config(dataclasses.replace(arguments, run=of), ranks)
        ours = Path(arguments.ds_config_file).stem
        return {ours: partial(our_loop, of, resolved, data, ranks), **rivals(options.against, of, data, device)}

    measure = partial(turn, n_warm_up=options.warm_up, n_steps=options.steps, max_seconds=options.max_seconds)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in loops(run)}
    for _ in range(options.rounds):
        for name, build in loops(run).items():
            turns[name].append(measure(build))
    mean_verse = float(PaddedVerses(data.token_set, run.batch.seq_len, run.seed).verses.lengths.mean())
    result = {
        "run": arguments.run_file,
        "ds_config": arguments.ds_config_file,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "clock": "CPU time" if counts_cpu_time() else "wall time",
        "model": f"{run.model.n_layers} layers x {run.model.dim}, {fit_vocabulary(run).n_parameters:,} parameters",
        "corpus": run.data.corpus,
        "seq_len": run.batch.seq_len,
        "rows": [run.batch.micro_batch_size, run.batch.global_batch_size],
        "activation_checkpointing": run.activation_checkpointing.mode,
        "left out": [key for key in LEFT_OUT if attrgetter(key)(arguments.run) != attrgetter(key)(run)],
        "seq_len / mean verse": run.batch.seq_len / mean_verse,
        **summarise(turns),
        "largest": {},
    }
    if limit:
        print(format_comparison(result), flush=True)  # the search takes minutes, and may be stopped
        result["largest"] = {name: largest_of(name, run, loops, limit) for name in turns}
    return result


def language_modelling(run: RunConfig) -> RunConfig:
    """Return the run with what the loops beside ours have too: language modelling on text as it stands."""
    return dataclasses.replace(
        run,
        tasks=run.tasks if [name for name, weight in run.tasks.items() if weight] == [LM] else {LM: 1.0},
        masking=MaskingConfig(),
        distill=DistillConfig(),
        memorisation=dataclasses.replace(run.memorisation, canaries=0),
        data=dataclasses.replace(run.data, chapter_order="canonical"),
    )


def turn(build: BuildLoop, *, n_warm_up: int, n_steps: int, max_seconds: float | None) -> dict[str, Any]:
    """Build a loop, warm it up and measure it; or that the memory does not hold it.

    Memory is the most that the loop has taken: of torch's allocator on a GPU, and of the host beyond what the process
    held before, which without a GPU is all of it.
    """
    _forget()
    meter, before, clock = Meter(), host_bytes(), _clock()
    steps, n_tokens, seconds = 0, 0, 0.0
    try:
        with meter("turn"), build() as loop:
            for _ in range(n_warm_up):
                loop.step()
            while steps < n_steps and (max_seconds is None or seconds < max_seconds):
                _synchronise()
                started = clock()
                n_tokens += loop.step()
                _synchronise()
                steps, seconds = steps + 1, seconds + clock() - started
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            return {"out_of_memory": True}
        raise
    finally:
        meter.close()
    phase = meter.phases["turn"]
    memory = {"gpu_allocated": phase.gpu_allocated, "gpu_reserved": phase.gpu_reserved, "host": phase.host - before}
    return {"tokens_per_second": n_tokens / seconds, "steps": steps, "tokens": n_tokens, **memory}


def summarise(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return median speeds and peaks, and the ratio of the first loop, ours, to each other: median, least and most."""
    done = {name: [of for of in found if "out_of_memory" not in of] for name, found in turns.items()}
    ours, *others = turns

    def ratio(other: str) -> dict[str, float] | None:
        pairs = zip(turns[ours], turns[other], strict=True)
        ratios = [
            a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs if a in done[ours] and b in done[other]
        ]
        return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None

    def each(key: str, of: Callable[[list[float]], float]) -> dict[str, float | None]:
        return {name: of([one[key] for one in found]) if found else None for name, found in done.items()}

    return {
        "tokens_per_second": each("tokens_per_second", statistics.median),
        "ratios": {f"{ours} / {other}": ratio(other) for other in others},
        **{f"{key}_bytes": each(key, max) for key in ("gpu_allocated", "gpu_reserved", "host")},
        "turns": turns,
    }


def largest_of(
    name: str, run: RunConfig, loops: Callable[[RunConfig], dict[str, BuildLoop]], limit: int
) -> dict[str, int]:
    """Return the largest micro-batch, and the most layers, with which a loop stays within a limit of bytes.

    Each size that is tried is a line of the output.
    """
    n_micro_steps = min(2, run.batch.global_batch_size // run.batch.micro_batch_size)

    def of_micro_batch(size: int) -> RunConfig:
        batch = dataclasses.replace(run.batch, micro_batch_size=size, global_batch_size=size * n_micro_steps)
        return dataclasses.replace(run, batch=batch)

    def of_layers(n_layers: int) -> RunConfig:
        model = dataclasses.replace(run.model, n_layers=n_layers)
        return dataclasses.replace(of_micro_batch(run.batch.micro_batch_size), model=model)

    def holds(of: Callable[[int], RunConfig], what: str, size: int) -> bool:
        found = turn(loops(of(size))[name], n_warm_up=1, n_steps=1, max_seconds=None)
        memory = "gpu_reserved" if distributed.accelerator() == "cuda" else "host"
        took = "out of memory" if "out_of_memory" in found else format_bytes(found[memory])
        print(f"{name}, {what} {size}: {took} of {format_bytes(limit)}", flush=True)
        return "out_of_memory" not in found and found[memory] <= limit

    return {
        "micro_batch_size": largest(partial(holds, of_micro_batch, "micro-batch")),
        "n_layers": largest(partial(holds, of_layers, "layers")),
    }


def largest(holds: Callable[[int], bool]) -> int:
    """Return the largest number that holds, to an eighth of it; 0 where not even 1 does. What holds, less does too."""
    low, high = 0, 1
    while holds(high):
        low, high = high, 2 * high
    while high - low > max(1, low // PRECISION):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def format_comparison(result: dict[str, Any]) -> str:
    """Return the comparison as a page of text."""
    at_once, rows = result["rows"]
    on_gpu = result["device"] != "cpu"
    lines = [
        f"{result['run']} with {result['ds_config']}, beside other loops on {result['device']}",
        f"{result['model']}; {rows} rows of {result['seq_len']} tokens a step, {at_once} at a time; "
        f"recomputed: {result['activation_checkpointing']}; a row is {result['seq_len / mean verse']:.1f} mean verses",
        f"Tokens that are not padding, by {result['clock']}; memory is the most beyond what the process held before:",
        f"{'loop':<16}{'tokens/s':>10}  {'ours / it':<20}{'GPU memory' if on_gpu else 'memory':>12}",
    ]
    lines[-1] += f"{'micro-batch':>13}{'layers':>8}  (the largest)" if result["largest"] else ""
    if result["left out"]:
        lines.insert(1, f"for all of them without the run's {', '.join(result['left out'])}: language modelling alone")
    ours = next(iter(result["tokens_per_second"]))
    for name, speed in result["tokens_per_second"].items():
        if speed is None:
            lines.append(f"{name:<16}{'out of memory':>10}")
            continue
        ratio = result["ratios"].get(f"{ours} / {name}")
        told = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else ""
        memory = result["gpu_reserved_bytes" if on_gpu else "host_bytes"][name]
        lines.append(f"{name:<16}{speed:>10,.0f}  {told:<20}{format_bytes(memory):>12}")
        if result["largest"]:
            lines[-1] += "{micro_batch_size:>13}{n_layers:>8}".format(**result["largest"][name])
    return "\n".join(lines)


def _clock() -> Callable[[], float]:
    """Return what a turn is timed by: on one thread of a CPU the time that it works, as others may work there too."""
    return time.process_time if counts_cpu_time() else time.perf_counter


def counts_cpu_time() -> bool:
    """Return whether the time that the process works says more than the time that passes."""
    return distributed.accelerator() == "cpu" and torch.get_num_threads() == 1


def _synchronise() -> None:
    if distributed.accelerator() == "cuda":
        torch.cuda.synchronize()


def _forget() -> None:
    """Give back what the loop before has left, so that the next begins as the first does."""
    gc.collect()
    if distributed.accelerator() == "cuda":
        torch.cuda.empty_cache()
    map_from(UNTUNED)
