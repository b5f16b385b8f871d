"""What a card has measured beside the plan of today: python tests/gpu/replan.py tests/gpu/results/CARD.json ...

The JSON has the plan of the commit that was measured. Compared is what torch's allocator reserved in forward, backward
and step; of the initialisation DeepSpeed resets the peak (empty_cache at runtime/zero/stage_1_and_2.py:449 of DeepSpeed
0.19.8), so what was measured is the end of it.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recording import ROOT

from genesis_ds.bench import command as bench
from genesis_ds.config.parse import parse_arguments
from genesis_ds.ds_config import load_ds_config
from genesis_ds.memory.machine.hardware import GIB, find_hardware
from genesis_ds.memory.scenario import Scenario

STANDS_FOR = "rtx4070"


@dataclass(frozen=True)
class Measured:
    """A `genesis-ds bench` on a card, in bytes."""

    name: str
    command: str
    reserved: int
    """The most that torch's allocator reserved in a step."""
    outside_torch: int
    """What the driver counted besides, at the end of a step."""


def measured(results: list[Path]) -> Iterator[Measured]:
    """Of each benchmark in the files that has ended."""
    for path in results:
        for rows in json.loads(path.read_text())["parts"].values():
            for row in rows:
                phases = [phase for name, phase in row.get("phases", {}).items() if name != "init"]
                if phases:
                    reserved = max(phase["gpu_reserved"] for phase in phases)
                    outside = max(phase["gpu_used"] - phase["gpu_reserved"] for phase in phases)
                    yield Measured(row["name"], row["command"], reserved, outside)


def planned(command: str) -> int:
    """Bytes that torch's allocator is to reserve in a step of the benchmark, on the card that was stood for."""
    argv = shlex.split(command)
    arguments = parse_arguments(argv[argv.index("bench") + 1 :], bench.flags(), "genesis-ds bench", "")
    file = arguments.ds_config_file
    machine = find_hardware(STANDS_FOR)
    phases = Scenario(arguments.run, arguments.run_file, load_ds_config(file), file, machine).plan().gpu.phases
    return max(nbytes for name, nbytes in phases.items() if name != "init") - machine.gpu_overhead_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, help="files of measure.py (default: all of tests/gpu/results)")
    results = parser.parse_args().results or sorted((ROOT / "tests/gpu/results").glob("*.json"))
    try:
        rows = list(measured(results))
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"{' '.join(map(str, results))}: not JSON files of measure.py: {error!r}")
    print("| run | torch reserved, GiB: planned | measured | plan is off by | outside torch, measured |")
    print("|---|---|---|---|---|")
    for row in rows:
        plan = planned(row.command)
        sizes = [f"{nbytes / GIB:.2f}" for nbytes in (plan, row.reserved, row.outside_torch)]
        print(f"| {row.name} | {sizes[0]} | {sizes[1]} | {plan / row.reserved - 1:+.1%} | {sizes[2]} |", flush=True)


if __name__ == "__main__":
    main()
