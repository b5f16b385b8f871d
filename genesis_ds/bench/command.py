"""`genesis-ds bench`: the real engine on synthetic tokens. The project's one measuring tool.

The model has the heads of the run's tasks; what is measured is language modelling.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genesis_ds.bench.against import compare, counts_cpu_time, format_comparison
from genesis_ds.bench.card import Card
from genesis_ds.bench.loops import KINDS
from genesis_ds.bench.step_profile import format_profile, profile_step
from genesis_ds.checkpoint.save.manager import CheckpointManager, Snapshot
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.config.resolve import ResolvedRun, resolve_steps
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.disk import require_place, write_text
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import Meter, host_bytes
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.flops import hardware_flops_per_token, model_flops_per_token
from genesis_ds.memory.answers.duration import duration
from genesis_ds.memory.machine.hardware import format_bytes, here, parse_size
from genesis_ds.memory.plan import Plan
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.lm import as_batch, cross_entropy
from genesis_ds.tasks.load import sized_run
from genesis_ds.tasks.noise import NoiseSource
from genesis_ds.training.preparation import machine_of, plan_memory, prepare_operations, resolve_ds_config
from genesis_ds.user_files import expanded

RESULT_PREFIX = b'{\n "run": '
"""The first bytes of a result file, by which one is known that may be replaced."""
TRACE_PREFIX = b' {\n    "schemaVersion"'
"""The same of a trace."""
WARM_UP, ROUNDS = 5, 3
REPEATED = ("data", "forward", "backward", "step")
"""The phases of every step."""


def main(argv: list[str]) -> int:
    """Measure a run and print the result; return exit code 0. Raises UserError for the user's mistake."""
    ranks = Ranks.from_environment()
    arguments = parse_arguments(argv, flags(), "genesis-ds bench", "Measure speed and memory on synthetic tokens.")
    check_options(arguments.options)
    with distributed.joined(ranks):
        against = arguments.options.against
        result = compare(arguments, ranks) if against else measure(arguments, ranks)
        if ranks.is_main:
            print(format_comparison(result) if against else format_result(result), flush=True)
            if not against:
                print(duration(arguments.run, result["tokens_per_second"]), flush=True)
            if arguments.options.json:
                write_text(Path(arguments.options.json), json.dumps(result, indent=1) + "\n")
    return 0


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--steps", type=int, default=20, help="optimizer steps that are measured, after a warm-up")
    own.add_argument("--warm_up", type=int, default=WARM_UP, help="optimizer steps before them (2 or more)")
    own.add_argument("--max_seconds", type=float, help="end the measured steps after so many seconds; one is measured")
    own.add_argument(
        "--profile", action="store_true", help="tell the time of one more step by its parts, and its kernels"
    )
    own.add_argument("--trace", help="with --profile: write that step to this file, for chrome://tracing or Perfetto")
    own.add_argument("--save", action="store_true", help="save a checkpoint to a temporary folder at the end as well")
    own.add_argument(
        "--vram_cap", help="stand for a smaller card: GPU memory, the CUDA context included, of 11.2GiB, say"
    )
    own.add_argument(
        "--against", help="measure on the run's text beside loops without this project: plain (two), or accelerate"
    )
    own.add_argument("--rounds", type=int, help=f"with --against: turns of each loop (default: {ROUNDS})")
    own.add_argument(
        "--largest", help="with --against: find the largest micro-batch and depth that each loop holds in 2GiB, say"
    )
    own.add_argument("--json", help="write the result to this file")
    return own


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError for an option that is not allowed, before minutes are spent."""
    if options.steps < 1:
        raise UserError(f"--steps: {options.steps} is not allowed; give 1 or more")
    if options.warm_up < 2:
        raise UserError(f"--warm_up: {options.warm_up} is not allowed; give 2 or more, as the first makes Adam's state")
    if options.against not in (None, *KINDS):
        raise UserError(f"--against: '{options.against}' is not known; give {' or '.join(KINDS)}")
    if options.rounds is not None and not options.against:
        raise UserError("--rounds: is for --against; --steps says how many steps are measured")
    options.rounds = ROUNDS if options.rounds is None else options.rounds
    if options.rounds < 1:
        raise UserError(f"--rounds: {options.rounds} is not allowed; give 1 or more")
    if options.largest and not options.against:
        raise UserError("--largest: is for --against; genesis-ds memory --fit predicts what fits")
    if options.against and (options.profile or options.save or options.vram_cap):
        raise UserError("--against: compares loops as they are; leave out --profile, --save and --vram_cap")
    if options.max_seconds is not None and not 0 < options.max_seconds < math.inf:
        raise UserError(f"--max_seconds: {options.max_seconds} is not allowed; give a number above 0")
    if options.json is not None:
        options.json = expanded(options.json, "--json")
        require_place(Path(options.json), "--json", RESULT_PREFIX)
    if options.trace and not options.profile:
        raise UserError("--trace: is of the step that --profile looks at; give both")
    if options.trace is not None:
        options.trace = expanded(options.trace, "--trace")
        require_place(Path(options.trace), "--trace", TRACE_PREFIX)
        if options.json is not None and Path(options.json).resolve() == Path(options.trace).resolve():
            raise UserError(f"--trace: {options.trace} is the file of --json; give another")


class Measurement:
    """The times and peaks of the phases so far."""

    def __init__(self, card: Card) -> None:
        self.card, self.meter = card, Meter()
        self.host_before, self.gpu_before = host_bytes(), card.used()
        self.gpu_used: dict[str, int] = {}
        """Phase -> bytes that all programs held of the card at its end, the most of all passes."""
        self.seconds: list[float] = []
        """Seconds of each measured step."""
        self.cpu_seconds: list[float] = []
        """In which this process worked."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase, or one more pass of it."""
        with self.meter(name):
            yield
        self.gpu_used[name] = max(self.gpu_used.get(name, 0), self.card.used())

    def phases(self) -> dict[str, dict[str, float]]:
        """Return the phases as plain data."""
        return {
            name: dataclasses.asdict(phase) | {"gpu_used": self.gpu_used[name]}
            for name, phase in self.meter.phases.items()
        }


def measure(arguments: Arguments, ranks: Ranks) -> dict[str, Any]:
    """Build the engine of the run, train on synthetic tokens and return what it took, as plain data."""
    run, options = resolve_run(arguments, ranks), arguments.options
    device, resolved = distributed.device(ranks), run.ds_config
    card = Card()
    if options.vram_cap:
        card.shrink(parse_size(options.vram_cap, "--vram_cap"), machine_of(ranks).gpu_overhead_bytes)
    predicted = plan_memory(run, arguments, ranks)
    prepare_operations(resolved)
    measurement = Measurement(card)
    with measurement.phase("init"):
        engine = Engine.build(run, ranks=ranks, device=device)

    def step(number: int, phase: Callable[[str], AbstractContextManager[None]] = measurement.phase) -> None:
        for micro_step in range(resolved.gradient_accumulation_steps):
            with phase("data"):
                batch = synthetic_batch(run, f"{number}/{micro_step}/{ranks.rank}", device)
            with phase("forward"):
                loss = cross_entropy(engine.forward(LM, batch), batch.labels["targets"])
            with phase("backward"):
                engine.backward(loss)
        with phase("step"):
            engine.step({LM})

    time_steps(step, measurement, options, device)
    if options.save:
        with measurement.phase("save"), tempfile.TemporaryDirectory() as folder:
            save(engine, Path(distributed.from_main(folder)), ranks)
    measurement.meter.close()
    trace = Path(options.trace) if options.trace and ranks.is_main else None
    profile = profile_step(lambda: step(-1, torch.profiler.record_function), engine, trace) if options.profile else {}
    result = summarise(run, arguments, ranks=ranks, measurement=measurement, predicted=predicted)
    return result | profile


def resolve_run(arguments: Arguments, ranks: Ranks) -> ResolvedRun:
    """Return the run as the trainer would have it, with all its tasks, of which the data may forbid some there."""
    config, options = arguments.run, arguments.options
    sized = sized_run(config, fit_vocabulary(config), resolve_ds_config(arguments, ranks))
    return resolve_steps(sized, n_steps=options.warm_up + options.steps, steps_per_epoch=1.0)


def save(engine: Engine, folder: Path, ranks: Ranks) -> None:
    """Write a checkpoint as the trainer does."""
    manager = CheckpointManager(folder, KeepPolicy(), ranks, identity={})
    manager.save(engine, Snapshot({}, {"global_step": 0}))


def time_steps(
    step: Callable[[int], None], measurement: Measurement, options: argparse.Namespace, device: torch.device
) -> None:
    """Run the warm-up and then the measured steps, as many of them as there is time for, on all ranks alike."""
    limit = options.max_seconds
    for number in range(options.warm_up + options.steps):
        if number == options.warm_up:
            for name in REPEATED:
                measurement.meter.restart(name)
        started, worked = time.perf_counter(), time.process_time()
        step(number)
        if number >= options.warm_up:
            measurement.cpu_seconds.append(time.process_time() - worked)
            measurement.seconds.append(time.perf_counter() - started)
        if limit and distributed.max_over_ranks([sum(measurement.seconds)], device)[0] >= limit:
            break


def summarise(
    run: ResolvedRun, arguments: Arguments, *, ranks: Ranks, measurement: Measurement, predicted: Plan
) -> dict[str, Any]:
    """Return the measurement as plain data. Speeds are those of the median step."""
    seconds = measurement.seconds
    median = statistics.median(seconds)
    tokens = run.config.batch.global_batch_size * run.config.batch.seq_len
    machine = here()
    achieved = {} if run.config.extensions.model else decoder_flops_per_token(run)
    peak_flops = machine.peak_flops and machine.peak_flops * ranks.world_size
    return {
        "run": arguments.run_file,
        "ds_config": arguments.ds_config_file,
        "device": torch.cuda.get_device_name() if machine.has_gpu else "cpu",
        "parameters": predicted.parameters,
        "ranks": ranks.world_size,
        "steps": len(seconds),
        "tokens_per_step": tokens,
        "tokens_per_second": tokens / median,
        "step_seconds": {"median": median, "min": min(seconds), "max": max(seconds)},
        "step_cpu_seconds": min(measurement.cpu_seconds) if counts_cpu_time() else None,
        "flops_per_second": {name: value * tokens / median for name, value in achieved.items()},
        **{name: value * tokens / median / peak_flops if peak_flops else None for name, value in achieved.items()},
        "host_bytes_before": measurement.host_before,
        "gpu_bytes_before": measurement.gpu_before,
        "ballast_bytes": measurement.card.ballast,
        "phases": measurement.phases(),
        "predicted": {"gpu": predicted.gpu.phases, "host": predicted.host.phases},
    }


def decoder_flops_per_token(run: ResolvedRun) -> dict[str, float]:
    """Return FLOPs per token by the utilisation that they are counted for; what a compiler recomputes is not known."""
    seq_len, readings = run.config.batch.seq_len, run.config.masking.readings
    found = {"mfu": model_flops_per_token(run.model, seq_len) * readings}
    budget = run.config.compile.activation_memory_budget
    if budget == 1 or not run.config.compiles_on(distributed.accelerator()):
        hardware = hardware_flops_per_token(run.model, seq_len, run.config.activation_checkpointing)
        found["hfu"] = hardware * readings
    return found


def synthetic_batch(run: ResolvedRun, key: str, device: torch.device) -> Batch:
    """Return one micro-batch of random tokens that depends on the key alone, with as many rows as training has."""
    batch = run.config.batch
    shape = (batch.micro_batch_size * run.config.masking.readings, batch.seq_len + 1)
    ids = (keyed_bits(key, shape[0] * shape[1]) % np.uint64(run.model.vocab_size)).reshape(shape)
    return NoiseSource(run.config).add(as_batch(ids), LM, range(shape[0])).to(device)


def format_result(result: dict[str, Any]) -> str:
    """Return the measurement as a page of text."""
    lines = [
        f"{result['run']} with {result['ds_config']}",
        f"{result['parameters']:,} parameters on {result['device']} x {result['ranks']}",
        f"{result['tokens_per_second']:,.0f} tokens/s, median of {result['steps']} steps of "
        f"{result['tokens_per_step']:,} tokens",
    ]
    for name in result["flops_per_second"]:
        share = f"{result[name]:.1%}" if result[name] is not None else "unknown (the peak of this device is not known)"
        lines.append(f"{name.upper()} {share}, {result['flops_per_second'][name] / 1e12:.2f} TFLOP/s")
    columns = ("gpu allocated", "gpu reserved", "gpu used", "gpu predicted", "host", "host predicted")
    lines.append(f"{'phase':<10}{'s/step':>10}{'share':>8}" + "".join(f"{name:>16}" for name in columns))
    in_a_step = sum(result["phases"][name]["seconds"] for name in REPEATED)
    for name, phase in result["phases"].items():
        repeated = name in REPEATED
        seconds = phase["seconds"] / (result["steps"] if repeated else 1)
        share = f"{phase['seconds'] / in_a_step:.0%}" if repeated else ""
        gpu, host = (result["predicted"][device].get(name, 0) for device in ("gpu", "host"))
        sizes = (phase["gpu_allocated"], phase["gpu_reserved"], phase["gpu_used"], gpu, phase["host"], host)
        lines.append(f"{name:<10}{seconds:>10.3f}{share:>8}" + "".join(f"{format_bytes(size):>16}" for size in sizes))
    lines += format_profile(result) if "parts" in result else []
    return "\n".join(lines)
