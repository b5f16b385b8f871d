"""`genesis-ds memory`: what fits, what binds, what to change."""

import dataclasses
import gc
import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.config.checks import require
from genesis_ds.config.parse import DEFAULT_DS_CONFIG, Arguments, OwnFlags, parse_arguments
from genesis_ds.config.presets import PRESETS
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError, nearest
from genesis_ds.memory.answers import search
from genesis_ds.memory.answers.advice import advise
from genesis_ds.memory.answers.duration import duration
from genesis_ds.memory.answers.report import format_plan, format_table, plan_to_dict, plot_plan
from genesis_ds.memory.answers.speed import Speed, format_scaling, scaling, shipped_ds_configs
from genesis_ds.memory.machine.hardware import Hardware, find_hardware, from_numbers
from genesis_ds.memory.plan import Plan, TableRow
from genesis_ds.memory.planner import AllocatorSettings
from genesis_ds.memory.scenario import Scenario
from genesis_ds.user_files import expanded

TeachersOf = Callable[[RunConfig], tuple[ModelShape, ...]]
"""Reads the shapes of the models of a run's teacher; it stands above this package, where files of models are read."""


@dataclass(frozen=True)
class ClaimedSize:
    """A preset and a batch that were said to fit 12 GB."""

    label: str
    preset: str
    micro_batch_size: int
    seq_len: int
    checkpointing: str
    """activation_checkpointing.mode."""


CLAIMED_SIZES = (
    ClaimedSize("50M at 16 x 4096", "deep_50m", micro_batch_size=16, seq_len=4096, checkpointing="none"),
    ClaimedSize("350M at 4 x 4096", "rtx4070_optimal", micro_batch_size=4, seq_len=4096, checkpointing="none"),
    ClaimedSize("1B at 2 x 2048, recomputed", "frontier_1b", micro_batch_size=2, seq_len=2048, checkpointing="block"),
)
"""What the earlier Genesis Arbiter code took to fit 12 GB."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Around a plan, which makes some million objects that live to its end: Python does not look for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


SLOWEST = 1e-3
"""Tokens a second, and Gbit/s, from which on something is predicted."""


@uncollected()
def main(argv: list[str], teachers: TeachersOf, require_parts: Callable[[RunConfig], None]) -> int:
    """Run the command. Return the exit code: 0 where the plan fits, 1 where it does not. Raises UserError.

    teachers, require_parts: what stands above this package; the latter looks at the classes that are the user's own.
    """
    arguments = parse_arguments(argv, flags(), "genesis-ds memory", "Plan the memory of a run, without a GPU.")
    options = arguments.options
    for name in ("tokens_per_second", "network"):
        if (given := getattr(options, name)) is not None:
            require(f"--{name}", given, SLOWEST <= given < math.inf, f"a number from {SLOWEST} on")
    with arguments.locating():
        scenario = _scenario(arguments, teachers)
        require_parts(arguments.run)
    _require_question(options)
    if options.scaling:
        print(format_scaling(list(scaling(scenario)), scenario))
        return 0
    if options.table:
        _print_table(scenario, options.presets)
        return 0
    with _progress() as progress:
        progress.add_task(f"planning {scenario.run.name}", total=None)
        return _answer(scenario, options, arguments)


@uncollected()
def plan_of(argv: list[str], teachers: TeachersOf) -> Plan:
    """Return the plan of what the flags of `genesis-ds memory` say. Raises UserError."""
    return _scenario(parse_arguments(argv, flags(), "genesis-ds memory", ""), teachers).plan()


def _require_question(options: Namespace) -> None:
    asked = [flag for flag in ("fit", "table", "scaling") if getattr(options, flag)]
    asked += ["plot"] if options.plot and (options.table or options.scaling) else []
    if len(asked) > 1:
        raise UserError(f"--{' and --'.join(asked)} answer different questions; give one of them")
    if options.json and (options.table or options.scaling):
        raise UserError("--json is of one plan; leave it out with --table and with --scaling")
    if options.fit and options.fit not in search.QUANTITIES:
        raise UserError(f"--fit: no quantity is named '{options.fit}'; give one of {', '.join(search.QUANTITIES)}")
    if options.presets and not options.table:
        raise UserError("--presets chooses rows of --table; for the plan or the picture of one, give --model.preset")


def _answer(scenario: Scenario, options: Namespace, arguments: Arguments) -> int:
    """Print the plan of a scenario, and draw it; return the exit code."""
    largest = ""
    if options.fit:
        if not (first := scenario.plan()).is_whole:
            raise UserError(f"--fit: what fits is not known; {first.notes[0]}")
        if not _is_seen():
            print(f"searching the largest {options.fit} that fits; a large model takes minutes", file=sys.stderr)
        found = search.largest(scenario, options.fit)
        scenario, largest = found.scenario, search.describe(found.scenario, options.fit)
        largest += f"; memory is not what limits it: {found.limit}" if found.limit else ""
    plan = scenario.plan()
    plan = dataclasses.replace(plan, advice=advise(scenario, plan))
    more: dict[str, Any] = {"largest": largest} if largest else {}
    speed = Speed.of(scenario)
    plan.speed.extend(speed.lines())
    more |= speed.to_dict()
    if options.tokens_per_second is not None:
        plan.notes.append(str(takes := duration(arguments.run, options.tokens_per_second)))
        more["days"] = takes.days
    if options.plot is not None:
        plot_plan(plan, expanded(options.plot, "--plot"))
    if options.json:
        print(json.dumps(plan_to_dict(plan) | more, indent=1))
    else:
        if largest:
            print(f"largest that fits {scenario.hardware.name}: {largest}")
        print(format_plan(plan))
    return 0 if plan.fits else 1


def _print_table(scenario: Scenario, chosen: str | None) -> None:
    """Print the table of the chosen presets, or of all with the sizes that were claimed; the terminal says how far."""
    batch = scenario.run.batch
    presets = [name.strip() for name in chosen.split(",")] if chosen else list(PRESETS)
    for name in presets:
        if name not in PRESETS:
            raise UserError(f"--presets: no preset is named '{name}'; {nearest(name, PRESETS)}")
    with _progress() as progress:
        n_plans = len(presets) * len(shipped_ds_configs())
        print(format_table(progress.track(table(scenario, presets), total=n_plans, description="plans")))
        print(
            f"Each row: {scenario.hardware.name}, batch.micro_batch_size {batch.micro_batch_size}, batch.seq_len "
            f"{batch.seq_len} and activation_checkpointing.mode block."
        )
        if not chosen:
            sizes = claimed_sizes(scenario)
            print("\n".join(progress.track(sizes, total=2 * len(CLAIMED_SIZES) + 2, description="claimed sizes")))


def _progress() -> Progress:
    """Return a bar on the standard error, where that is a terminal; it is taken away in the end."""
    return Progress(console=Console(stderr=True), transient=True, disable=not _is_seen())


def _is_seen() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def table(scenario: Scenario, presets: Sequence[str]) -> Iterator[TableRow]:
    """Plan presets under every shipped ds_config, with the scenario's batch and recomputed blocks."""
    scenario = scenario.with_checkpointing(mode="block", every=1)
    for name in presets:
        model = {"n_kv_heads": None, "max_seq_len": scenario.run.model.max_seq_len} | PRESETS[name]
        of_preset = scenario.with_model(preset=name, **model)
        for path in shipped_ds_configs():
            try:
                plan = of_preset.with_ds_config_file(path).plan()
                yield TableRow(name, path.stem, plan)
            except UserError as error:
                yield TableRow(name, path.stem, None, str(error))


def claimed_sizes(scenario: Scenario) -> Iterator[str]:
    """Plan each of `CLAIMED_SIZES` on the scenario's machine; one line per size and ds_config."""
    yield "Sizes that the earlier Genesis Arbiter code took to fit 12 GB, on this machine:"
    for size in CLAIMED_SIZES:
        shape = PRESETS[size.preset]
        of_row = scenario.with_model(preset=size.preset, n_kv_heads=None, max_seq_len=size.seq_len, **shape)
        of_row = of_row.with_batch(
            micro_batch_size=size.micro_batch_size,
            seq_len=size.seq_len,
            global_batch_size=size.micro_batch_size * scenario.hardware.world_size,
        )
        of_row = of_row.with_checkpointing(mode=size.checkpointing, every=1, offload=False)
        for ds_config in ("zero2", "zero2_offload"):
            plan = of_row.with_ds_config_file(DEFAULT_DS_CONFIG.with_name(f"{ds_config}.json")).plan()
            yield f"  {size.label:<28} {ds_config:<14} {_verdict(plan)}"
    yield (
        "  'overhead 3-4x model size': the states alone take 16-20 bytes per parameter, 8-10 times the bf16 weights; "
        "activations come on top and follow the batch, not the model's size"
    )


def _verdict(plan: Plan) -> str:
    states = (plan.gpu.peak_bytes + plan.host.peak_bytes) / (2 * plan.parameters)
    sizes = f"GPU {plan.gpu.peak_bytes / 2**30:.1f} GiB, host {plan.host.peak_bytes / 2**30:.1f} GiB"
    return f"{'fits' if plan.fits else 'DOES NOT FIT':<13} {sizes}, together {states:.0f} times the bf16 weights"


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--hardware", help="a machine by name (rtx4070, rtx4090, h100, ...) or 'here' (the default)")
    own.add_argument("--vram", help="memory of one card, such as 12GiB; with --ram in the place of --hardware")
    own.add_argument("--ram", help="memory of one node, such as 64GiB")
    own.add_argument("--gpus", type=int, help="ranks of a node; they share its memory")
    own.add_argument("--nodes", type=int, help="nodes")
    own.add_argument("--exact_pinning", action="store_true", help="as with DS_PIN_MEMORY_BACKEND=native")
    own.add_argument("--expandable_segments", action="store_true", help="as with PYTORCH_ALLOC_CONF of that name")
    own.add_argument("--fit", help=f"search the largest that fits: {', '.join(search.QUANTITIES)}")
    own.add_argument("--table", action="store_true", help="every preset under every shipped ds_config")
    own.add_argument("--scaling", action="store_true", help="speed on 1 to 1,024 ranks, --gpus of them on a node")
    own.add_argument("--network", type=float, help="Gbit/s from a node to the others, in the place of --hardware's")
    own.add_argument("--presets", help="of --table: these presets alone, separated by commas")
    own.add_argument("--tokens_per_second", type=float, help="speed of all ranks: how long the run takes on its corpus")
    own.add_argument("--json", action="store_true", help="print the plan as JSON")
    own.add_argument("--plot", help="draw both timelines into this PNG file")
    return own


def _scenario(arguments: Arguments, teachers: TeachersOf = lambda run: ()) -> Scenario:
    options = arguments.options
    run = arguments.run
    given = run.model.vocab_size
    model = fit_vocabulary(run) if given is None else run.model.of_vocabulary(given)
    here = AllocatorSettings.from_environment()
    return Scenario(
        run=dataclasses.replace(run, model=model),
        run_source=arguments.source,
        ds_config=load_ds_config(arguments.ds_config_file),
        ds_config_file=arguments.ds_config_file,
        hardware=_hardware(arguments),
        settings=AllocatorSettings(
            exact_pinning=options.exact_pinning or here.exact_pinning,
            expandable_segments=options.expandable_segments or here.expandable_segments,
        ),
        teachers=teachers(run),
    )


def _hardware(arguments: Arguments) -> Hardware:
    options = arguments.options
    by_size = bool(options.vram or options.ram)
    if by_size and (options.hardware or not (options.vram and options.ram)):
        raise UserError("--vram and --ram go together, and in the place of --hardware")
    machine = from_numbers(options.vram, options.ram) if by_size else find_hardware(options.hardware or "here")
    counts = {"gpus_per_node": options.gpus, "nodes": options.nodes}
    machine = dataclasses.replace(machine, **{key: count for key, count in counts.items() if count is not None})
    if options.network is None:
        return machine
    return dataclasses.replace(machine, network_bandwidth=options.network * 1e9 / 8 / machine.gpus_per_node)
