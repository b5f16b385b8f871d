"""`genesis-ds tune`: the fastest settings of a run on this machine, or the largest model it trains in a given time."""

import argparse
import dataclasses
import json
import math
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.load.teacher import teacher_shapes
from genesis_ds.config import LENGTHS, RunConfig
from genesis_ds.config.checks import require
from genesis_ds.config.parse import Arguments, OwnFlags, parse_arguments
from genesis_ds.corpus.storage import open_corpus
from genesis_ds.data.token_set import select_translations
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.disk import require_place, write_text
from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError
from genesis_ds.hooks.load import require_parts
from genesis_ds.memory.answers.report import format_count
from genesis_ds.memory.machine.hardware import apart, format_bytes, here
from genesis_ds.memory.planner import AllocatorSettings
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning.candidates import Dimensions, Gradients, dimensions, own_candidate
from genesis_ds.tuning.largest import largest_in_time
from genesis_ds.tuning.search import Row, Search
from genesis_ds.tuning.trials import PREFIX, Bench
from genesis_ds.user_files import dump_yaml, expanded

HEADING = "# Written by genesis-ds tune"
"""The first bytes of what it writes, by which a file is known that may be replaced."""
MOST_MINUTES = 1e6


def flags() -> OwnFlags:
    """Return the command's own flags."""
    own = OwnFlags()
    own.add_argument("--output", help="the YAML to write (default: NAME.tuned.yaml); what was measured goes beside it")
    about_limit = "minutes to measure, planning not counted; the same command goes on from there"
    own.add_argument("--limit", type=float, default=30.0, help=about_limit)
    own.add_argument("--steps", type=int, default=5, help="optimizer steps that are measured of each, after two")
    own.add_argument("--ranks", type=int, help="processes, one a GPU (default: the GPUs of this host; 1 without any)")
    own.add_argument("--ds_configs", help="those to try, with commas between (default: shipped ones that round alike)")
    own.add_argument("--hours", type=float, help="with --tokens: find the largest model that trains in so many hours")
    own.add_argument("--tokens", type=float, help="with --hours: tokens of that run, 3e10, say")
    return own


def main(argv: list[str]) -> int:
    """Measure, print a table and write the fastest; return exit code 0. Raises UserError for the user's mistake."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that a trial is ended with it
    about = "Find the fastest settings for a run on this machine, by trying them."
    arguments = parse_arguments(argv, flags(), "genesis-ds tune", about)
    options = arguments.options
    output = checked_output(options, arguments.run.name)
    scenario = this_machine(arguments)
    require_text(arguments.run)
    of = dimensions(scenario, named_ds_configs(options.ds_configs))
    results, hardware = output.with_suffix(".json"), scenario.hardware
    machine = f"{hardware.name}, {hardware.host_bytes}"
    bench = Bench(results, ranks=hardware.world_size, steps=options.steps, machine=machine)
    n_known = len(bench.trials)
    search = Search(
        scenario, arguments.given, bench, seconds=60 * options.limit, say=lambda line: print(line, flush=True)
    )
    with saying_what_is_kept(results):
        best, lines = found(search, of, options)
    print("\n".join([format_rows(search, best), *lines]))
    train = write_tuned(search, best, options, output)
    if search.is_over:
        new = len(bench.trials) > n_known
        then = "the same command goes on" if new else "they are too few for the next: give it more"
        print(f"the {options.limit:g} minutes of --limit are over: more may be faster; {then}")
    print(train)
    return 0


def found(search: Search, of: Dimensions, options: argparse.Namespace) -> tuple[Row, list[str]]:
    """Return the best row, and lines that say what it is beside the table."""
    if not options.hours:
        return search.fastest(of), []
    best, planned = largest_in_time(search, of, n_tokens=options.tokens, seconds=3600 * options.hours)
    hours = options.tokens / best.tokens_per_second / 3600
    model, first = best.scenario.run.model, planned and planned.scenario.run.model
    by_plan = f"; by plan alone {first.n_layers} layers of width {first.dim}" if first else ""
    line = (
        f"largest for {options.tokens:,.0f} tokens in {options.hours:g} hours: {model.n_layers} layers of width "
        f"{model.dim}, {format_count(best.scenario.plan().parameters)} parameters, {hours:.1f} hours as measured"
        f"{by_plan}"
    )
    return best, [line]


@contextmanager
def saying_what_is_kept(results: Path) -> Iterator[None]:
    """Say where the results are where the block is ended by a signal."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        kept = f"what was measured is kept in {results}; " if results.exists() else "nothing was measured yet; "
        with suppress(OSError):  # of a terminal that is closed
            print(f"stopped: {kept}the same command goes on from there", file=sys.stderr, flush=True)
        raise


def named_ds_configs(paths: str | None) -> list[str]:
    """Return the paths of --ds_configs; none where it is not given."""
    return [] if paths is None else [expanded(each, "--ds_configs") for each in paths.split(",")]


def tuned_ds_config(output: Path) -> Path:
    """Return the path of the ds_config that is written beside the YAML where none that was given is the fastest."""
    return output.with_suffix(".ds_config.json")


def write_tuned(search: Search, best: Row, options: argparse.Namespace, output: Path) -> str:
    """Write the best as a YAML, with its ds_config beside it where no file has that; return the command to train it.

    A ds_config beside it is named in the YAML at any moment, so that the next start knows it for one of ours.
    """
    ds_config, beside = best.candidate.ds_config, tuned_ds_config(output)
    is_new = best.candidate.gradients != Gradients()
    if is_new:
        ds_config = str(beside)
    elif all(Path(row.candidate.ds_config).resolve() != beside.resolve() for row in search.rows.values()):
        beside.unlink(missing_ok=True)
    threads = f"OMP_NUM_THREADS={best.candidate.threads} " if best.candidate.threads else ""
    train = f"{threads}genesis-ds train --config {shlex.quote(str(output))} --ds_config {shlex.quote(ds_config)}"
    write_text(output, tuned_yaml(search, best, options, train))
    if is_new:
        write_text(beside, json.dumps(best.scenario.ds_config, indent=2) + "\n")
    return train


def checked_output(options: argparse.Namespace, name: str) -> Path:
    """Return the path of the YAML to write. Raises UserError for an option that is not allowed."""
    require(
        "--limit", options.limit, 0 < options.limit <= MOST_MINUTES, f"minutes, above 0 and up to {MOST_MINUTES:,.0f}"
    )
    require("--steps", options.steps, options.steps >= 1, "1 or more")
    require("--ranks", options.ranks, options.ranks is None or options.ranks >= 1, "1 or more")
    if (options.hours is None) != (options.tokens is None):
        raise UserError("--hours and --tokens go together: the largest model for so many tokens in so many hours")
    for flag in ("hours", "tokens"):
        value = getattr(options, flag)
        require(f"--{flag}", value, value is None or 0 < value < math.inf, "a number above 0")
    output = Path(expanded(options.output or f"{name}.tuned.yaml", "--output"))
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output: {output} is no name of a YAML; give one that ends in .yaml")
    require_place(output, "--output", HEADING.encode())
    require_place(output.with_suffix(".json"), "--output", PREFIX)
    beside = tuned_ds_config(output)
    if beside.exists() and not (output.exists() and beside.name in output.read_text(encoding="utf-8")):
        raise UserError(f"{beside}: is not of this command, and may be written by it; give another --output")
    return output


def this_machine(arguments: Arguments) -> Scenario:
    """Return the run on this machine. Raises UserError where the run cannot be had."""
    run = arguments.run
    with arguments.locating():
        require_parts(run)
    if arguments.options.hours and run.extensions.model:
        raise UserError("--hours: is for the decoder, whose family of shapes is known; leave out extensions.model")
    hardware = apart(here)
    ranks = arguments.options.ranks or hardware.gpus_per_node
    scenario = Scenario(
        run=dataclasses.replace(run, model=fit_vocabulary(run)),
        run_source=arguments.source,
        ds_config=load_ds_config(arguments.ds_config_file),
        ds_config_file=expanded(arguments.ds_config_file, "--ds_config"),
        hardware=dataclasses.replace(hardware, gpus_per_node=ranks),
        settings=AllocatorSettings.from_environment(),
        teachers=teacher_shapes(run),
    )
    scenario.sized()  # what DeepSpeed or the batch does not allow is said before anything is measured
    return scenario


def require_text(run: RunConfig) -> None:
    """Raise UserError where the text is not there that the run is trained on; what is measured needs none of it."""
    if not run.arithmetic.modulus:
        select_translations(open_corpus(run.data.corpus).translations, run.data.languages)


def tuned_yaml(search: Search, best: Row, options: argparse.Namespace, train: str) -> str:
    """Return the YAML of the best row, with what it was measured as and the command that trains it."""
    values: dict[str, Any] = search.values(best.scenario, best.candidate)
    if options.tokens:
        values = {key: value for key, value in values.items() if key not in LENGTHS}
        values["max_tokens"] = int(options.tokens)
    lines = [
        f"{HEADING}: {best.tokens_per_second:,.0f} tokens/s on this machine ({best.scenario.hardware.name}, ranks: "
        f"{best.scenario.hardware.world_size}), with",
        f"# {train}",
    ]
    return "\n".join([*lines, dump_yaml(values)])


def format_rows(search: Search, best: Row) -> str:
    """Return the table of what was measured, the fastest first."""
    own = own_candidate(search.scenario)
    has_gpu = search.scenario.hardware.has_gpu
    heads = ["", "ds_config", "model", "recomputed", "rows x steps", "predicted", "measured tokens/s"]
    heads += ["GPU planned", "measured"] * has_gpu + ["host planned", "measured"]
    cells = [heads]
    for row in sorted(search.rows.values(), key=lambda row: -row.tokens_per_second):
        if not row.trials:
            continue
        candidate, run, plan, last = row.candidate, row.scenario.run, row.scenario.plan(), row.trials[-1]
        steps = row.scenario.sized().ds_config.gradient_accumulation_steps
        speeds = ", ".join(f"{each.tokens_per_second:,.0f}" for each in row.trials if each.tokens_per_second)
        memory = [format_bytes(plan.gpu.peak_bytes), _measured(last.gpu_bytes)] * has_gpu
        memory += [format_bytes(plan.host.peak_bytes), _measured(last.host_bytes)]
        mark = "*" if row is best else "own" if (candidate, run.model) == (own, search.scenario.run.model) else ""
        cells.append(
            [
                mark,
                str(candidate),
                f"{run.model.n_layers} x {run.model.dim}",
                str(candidate.recomputation),
                f"{candidate.micro_batch_size} x {steps}",
                f"{row.step.tokens_per_second:,.0f}" if row.step else "-",
                speeds or last.problem,
                *memory,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    note = "* the fastest; own: the run as it is. Measured is the fastest step; what is planned or predicted was not."
    return "\n".join([*table, note])


def _measured(nbytes: int) -> str:
    return format_bytes(nbytes) if nbytes else "-"
