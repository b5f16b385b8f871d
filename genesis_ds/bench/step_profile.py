"""One step under torch's profiler: where its time goes, part by part, and a trace of it for Chrome."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from genesis_ds.disk import replacing
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.profiled import GATHER, HOOKS, REDUCE
from genesis_ds.model.attention_proof import without_stderr

OPTIMIZER = "Optimizer.step#"
"""Beginning of torch's name for the range of an optimizer's step."""
INNERMOST_FIRST = (GATHER, REDUCE, HOOKS, OPTIMIZER, "data", "forward", "backward", "step")
"""The ranges of a step, each without what those before it have: `step` is clipping, casting and gathering weights."""
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
"""Beginnings of the profiler's names for the runtime's and the driver's calls that launch a kernel."""
COPIES = {"copies to the host": "Memcpy DtoH", "copies to the card": "Memcpy HtoD", "between ranks": "nccl"}
"""What a card does besides computing -> the beginning of the profiler's names for it."""

Span = tuple[float, float]
"""Begin and end, in microseconds."""


def profile_step(step: Callable[[], None], engine: Engine, trace: Path | None) -> dict[str, Any]:
    """Run a step under the profiler; return its parts as plain data, and write a Chrome trace where a path is given.

    The step has to name its data, forward, backward and step by `record_function`. A profiled step is slower than
    another: what counts is the share of each part. On a GPU the parts are the host's time, which goes on before the
    card is done; what the card works on is told apart.
    """
    on_gpu = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with without_stderr(), torch.profiler.profile(activities=activities) as profile, engine.labelled():
        step()
        if on_gpu:
            torch.cuda.synchronize()
    if trace:
        with replacing(trace) as temporary:
            profile.export_chrome_trace(str(temporary))
    events = list(profile.events())
    found: dict[str, Any] = {"parts": parts(events), "operators": operators(events)}
    return found | (kernels(profile) if on_gpu else {})


def parts(events: Sequence[FunctionEvent]) -> dict[str, float]:
    """Return the seconds of each range, without what lies in a range within it."""
    spans: dict[str, list[Span]] = {name: [] for name in INNERMOST_FIRST}
    for event in events:
        name = OPTIMIZER if event.name.startswith(OPTIMIZER) else event.name
        if name in spans and event.device_type.name == "CPU":
            spans[name].append((event.time_range.start, event.time_range.end))
    seconds, inner = {}, list[Span]()
    for name, own in spans.items():
        seconds[name.partition(".")[0].lower()] = (covered([*inner, *own]) - covered(inner)) / 1e6
        inner += own
    return seconds


def covered(spans: Sequence[Span]) -> float:
    """Return how long at least one of the spans lasts."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def operators(events: Sequence[FunctionEvent]) -> int:
    """Return how many of torch's operators were called from outside of another: on a GPU most launch a kernel."""
    return sum(event.name.startswith("aten::") and not _is_within_another(event) for event in events)


def _is_within_another(event: FunctionEvent) -> bool:
    above = event.cpu_parent
    while above is not None and not above.name.startswith("aten::"):
        above = above.cpu_parent
    return above is not None


def kernels(profile: torch.profiler.profile) -> dict[str, Any]:
    """Return how many CUDA kernels were launched, and the seconds that the GPU works on them, copies told apart."""
    events = profile.key_averages()
    on_card = [event for event in events if event.device_type.name == "CUDA"]
    return {
        "kernel_launches": sum(event.count for event in events if event.key.startswith(LAUNCHES)),
        "kernel_seconds": sum(event.self_device_time_total for event in on_card) / 1e6,
        "copy_seconds": {
            name: sum(event.self_device_time_total for event in on_card if event.key.startswith(beginning)) / 1e6
            for name, beginning in COPIES.items()
        },
    }


def format_profile(result: dict[str, Any]) -> list[str]:
    """Return what was profiled as lines of text."""
    n_tokens, seconds = result["tokens_per_step"], sum(result["parts"].values())
    lines = [f"one step under the profiler, {seconds:.3f} s; parts without what is in one before them:"]
    lines += [f"  {name:<10}{part:>10.3f} s{part / seconds:>8.1%}" for name, part in result["parts"].items()]
    lines.append(f"{result['operators']:,} operators called, {result['operators'] / n_tokens:.2f} a token")
    if "kernel_launches" in result:
        share, launches = result["kernel_seconds"] / result["step_seconds"]["median"], result["kernel_launches"]
        copies = ", ".join(f"{name} {value:.3f} s" for name, value in result["copy_seconds"].items())
        lines.append(f"{launches:,} CUDA kernels, {launches / n_tokens:.2f} a token")
        lines.append(f"the GPU works on them for {share:.0%} of a step; of that: {copies}")
    return lines
