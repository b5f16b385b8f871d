"""What the modes of activation_checkpointing keep and take, side by side, and a loss in chunks beside one at once.

    MALLOC_MMAP_THRESHOLD_=65536 PYTHONPATH=. python tests/bench/recomputation.py [--norm rmsnorm] [--out FILE.json]

First the decoder (fp32, one thread) in every mode: what a block keeps, as the memory plan says and as the process grows
between two depths in a forward pass, in units of T x D elements; and the CPU seconds of forward and backward, the
modes taking turns, each round beside `none` of the same round. Then the output layer and the loss alone, in bf16: the
highest memory above what was held before, a logit, the seconds, the loss, and how far the weight's gradient is from
fp64's.
Without the environment variable freed buffers stay in the heap, and nothing can be told from the process' size.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.memory.activations.trace import MicroBatch, Traced, trace
from genesis_ds.memory.deepspeed.timeline import Alloc, Free
from genesis_ds.model.output import ReadOut
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import cross_entropy

MODES = ("none", "swiglu", "elementwise", "mlp", "block")
DEPTHS = 6, 12
ROWS, TIME, DIM = 2, 512, 256
CHUNKS = (None, 512, 128)
POSITIONS, OF_WIDTH = 1024, 1024


def shape(norm: str, n_layers: int) -> ModelShape:
    """A narrow decoder whose feed-forward layer is 2.75 times as wide."""
    return ModelShape(n_layers=n_layers, dim=DIM, n_heads=4, intermediate_size=704, vocab_size=260, norm=norm)


def held_bytes() -> int:
    """Anonymous memory of this process."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak_bytes() -> int:
    """Highest memory of this process since the last call, by the kernel's own count (proc(5), clear_refs)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def planned_bytes(mode: str, norm: str, n_layers: int) -> int:
    """What the plan's trace holds between forward and backward."""
    checkpointing = ActivationCheckpointingConfig(mode)
    held: dict[str, int] = {}
    traced = Traced(shape(norm, n_layers), checkpointing, MicroBatch(ROWS, TIME), torch.float32, gpu=False)
    for event in trace(traced).events:
        if event == "backward":
            break
        if isinstance(event, Alloc):
            held[event.key] = event.nbytes
        elif isinstance(event, Free):
            held.pop(event.key, None)
    return sum(held.values())


class Run:
    """A model in one mode."""

    def __init__(self, mode: str, norm: str, n_layers: int) -> None:
        torch.manual_seed(0)
        self.model = Transformer(shape(norm, n_layers), ActivationCheckpointingConfig(mode))
        self.tokens = torch.randint(0, 260, (ROWS, TIME))
        self.gradients: list[Tensor] = []
        self.kept = 0

    def __call__(self) -> tuple[float, float]:
        """Seconds of a forward and of a backward pass."""
        before, started = held_bytes(), time.process_time()
        loss = cross_entropy(self.model(self.tokens), self.tokens)
        forward = time.process_time() - started
        self.kept = held_bytes() - before
        started = time.process_time()
        loss.backward()
        backward = time.process_time() - started
        self.gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        self.model.zero_grad()
        return forward, backward


def modes(norm: str, rounds: int) -> dict[str, Any]:
    """Each mode's kept memory in T x D elements a block, and its time over that of `none`."""
    unit = 4 * ROWS * TIME * DIM * (DEPTHS[1] - DEPTHS[0])
    kept = {}
    for mode in MODES:
        of_depth = []
        for depth in DEPTHS:
            run = Run(mode, norm, depth)
            run()
            run()
            of_depth.append(run.kept)
        plans = [planned_bytes(mode, norm, depth) for depth in DEPTHS]
        kept[mode] = {"planned": (plans[1] - plans[0]) / unit, "kept": (of_depth[1] - of_depth[0]) / unit}
    runs = {mode: Run(mode, norm, DEPTHS[1]) for mode in MODES}
    seconds: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for number in range(rounds + 1):
        for mode, run in runs.items():
            taken = run()
            if number:
                seconds[mode].append(taken)
    for mode, run in runs.items():
        pairs = list(zip(seconds[mode], seconds["none"], strict=True))
        kept[mode] |= {
            "backward": ratios([own[1] / none[1] for own, none in pairs]),
            "step": ratios([sum(own) / sum(none) for own, none in pairs]),
            "equal": all(map(torch.equal, run.gradients, runs["none"].gradients)),
        }
    return kept


def ratios(of_rounds: list[float]) -> list[float]:
    """Median, lowest and highest."""
    return [round(value, 3) for value in (statistics.median(of_rounds), min(of_rounds), max(of_rounds))]


def loss(vocabulary: int, rounds: int) -> dict[str, Any]:
    """The loss of POSITIONS in bf16 at once and in chunks."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, POSITIONS, OF_WIDTH, generator=generator)
    weight = torch.randn(vocabulary, OF_WIDTH, generator=generator) * OF_WIDTH**-0.5
    targets = torch.randint(0, vocabulary, (1, POSITIONS), generator=generator)
    exact = gradient(None, hidden.double(), weight.double(), targets)[1]
    found: dict[str, Any] = {}
    seconds: dict[int | None, list[float]] = {chunk: [] for chunk in CHUNKS}
    for number in range(rounds + 1):
        for chunk in CHUNKS:
            gc.collect()
            peak_bytes()
            before = peak_bytes()
            started = time.process_time()
            value, of_weight = gradient(chunk, hidden.bfloat16(), weight.bfloat16(), targets)
            if number:
                seconds[chunk].append(time.process_time() - started)
            highest = peak_bytes() - before
            error = float((of_weight.double() - exact).norm() / exact.norm())
            found[str(chunk)] = {"bytes": highest / (POSITIONS * vocabulary), "loss": value, "error": error}
    for chunk in CHUNKS:
        found[str(chunk)]["time"] = ratios([a / b for a, b in zip(seconds[chunk], seconds[None], strict=True)])
    return found


def gradient(chunk: int | None, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the loss and the weight's gradient."""
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    read_out: Callable[..., Tensor] = ReadOut(is_stablemax=False, chunk=chunk)
    output = read_out(hidden, weight, targets)
    value = (
        torch.nn.functional.cross_entropy(output[0], targets[0])
        if hidden.dtype == torch.float64
        else cross_entropy(output, targets)
    )
    value.backward()
    assert weight.grad is not None, "the loss depends on the weight"
    return value.item(), weight.grad


def main() -> None:
    """Print two tables, and JSON to --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--norm", nargs="+", default=["deepnorm", "rmsnorm"])
    parser.add_argument("--vocabulary", nargs="+", type=int, default=[8192, 32768])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        parser.error("MALLOC_MMAP_THRESHOLD_ is not set; set it to 65536")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for norm in options.norm:
        print(f"{norm}: mode, T x D kept a block (planned, measured), backward and step over those of none, equal")
        results[norm] = modes(norm, options.rounds)
        for mode, row in results[norm].items():
            print(f"{mode:12}{row['planned']:8.2f}{row['kept']:8.2f}  {row['backward']}  {row['step']}  {row['equal']}")
    for vocabulary in options.vocabulary:
        print(f"vocabulary {vocabulary}: chunk, highest bytes a logit, time, loss, relative error of the gradient")
        results[str(vocabulary)] = loss(vocabulary, options.rounds)
        for chunk, row in results[str(vocabulary)].items():
            print(f"{chunk:8}{row['bytes']:8.2f}  {row['time']}  {row['loss']:.6f}  {row['error']:.2e}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
