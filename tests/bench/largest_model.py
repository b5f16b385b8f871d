"""The largest model that so much host memory holds: built, stepped, saved, and resumed in another process.

    PYTHONPATH=. python tests/bench/largest_model.py [--ram 20GiB] [--ds_config FILE ...] [--directory DIR] [--out FILE]

The plan says how many layers of the run's width fit. On a CPU, whose memory holds what a GPU would hold as well, in
bf16, with 8 tokens a step: the highest memory of each phase beside the plan's. A checkpoint is saved after two steps;
the process that saved and the one that resumes go on for two, and their losses have to be the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import lm_engine, on_one_cpu

from genesis_ds.bench.command import save
from genesis_ds.checkpoint.load.resume import find_checkpoint, load_checkpoint
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.config.resolve import SizedRun
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine.distributed import initialise, leave, set_environment
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.meter import Meter
from genesis_ds.engine.ranks import Ranks
from genesis_ds.memory.machine.hardware import parse_size
from genesis_ds.memory.plan import Plan
from genesis_ds.memory.planner import AllocatorSettings, make_plan
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.lm import as_batch, cross_entropy
from genesis_ds.training.preparation import machine_of

TOKENS = 8
BATCH = ["--batch.seq_len", str(TOKENS), "--batch.micro_batch_size", "1", "--batch.global_batch_size", "1"]
PHASES = ("init", "forward", "backward", "step", "save", "load")
SHIPPED = ["ds_configs/zero2_offload_bf16.json", "ds_configs/zero3_offload_bf16.json"]


def sized_run(config: str, ds_config: str, n_layers: int) -> SizedRun:
    """Return the run with so many layers."""
    flags = ["--config", config, "--ds_config", ds_config, "--precision", "bf16", "--max_steps", "4", *BATCH]
    given = parse_arguments(flags, OwnFlags(), "largest_model.py", "").run
    model = replace(fit_vocabulary(given), n_layers=n_layers)
    run = replace(given, model=model, tasks={LM: 1.0})
    return SizedRun(run, model, on_one_cpu(run, json.loads(Path(ds_config).read_text())), tasks=(LM,), heads=())


def plan(run: SizedRun) -> Plan:
    """Return the run's plan in a process like this one."""
    return make_plan(run, machine_of(Ranks.from_environment()), AllocatorSettings.from_environment())


def deepest(sized: Callable[[int], SizedRun], nbytes: int) -> int:
    """Return the most layers whose plan stays within so many bytes; it grows by the same with each layer."""
    few, more = (plan(sized(n)).host.peak_bytes for n in (20, 40))
    n_layers = 20 + int((nbytes - few) * 20 / (more - few))
    while plan(sized(n_layers)).host.peak_bytes > nbytes:
        n_layers -= 1
    return n_layers


def train(run: SizedRun, directory: Path, resumes: bool) -> dict[str, Any]:
    """Train two steps and save, or take up what is saved; then two more. Gives their losses, and each phase's peak."""
    ranks, meter, losses = Ranks.from_environment(), Meter(), []
    set_environment(ranks)
    initialise(ranks)
    planned, started = plan(run), time.perf_counter()
    with meter("init"):
        engine = lm_engine(run.config, run.ds_config, ranks)
    if resumes:
        with meter("load"):
            found = find_checkpoint(directory, "auto")
            assert found is not None
            load_checkpoint(engine, found.path, ranks)
    else:
        losses = [step(engine, meter, number) for number in range(2)]
        with meter("save"):
            save(engine, directory, ranks)
    losses += [step(engine, meter, number) for number in (2, 3)]
    meter.close()
    leave()
    return {
        "parameters": planned.parameters,
        "planned": planned.host.phases,
        "measured": {name: phase.host for name, phase in meter.phases.items()},
        "losses": losses[-2:],
        "seconds": time.perf_counter() - started,
    }


def step(engine: Engine, meter: Meter, number: int) -> float:
    """Train one step on tokens that its number decides; return the loss."""
    batch = as_batch(np.random.default_rng(number).integers(256, size=(1, TOKENS + 1)))
    with meter("forward"):
        loss = cross_entropy(engine.forward(LM, batch), batch.labels["targets"])
    with meter("backward"):
        engine.backward(loss)
    with meter("step"):
        engine.step({LM})
    return float(loss.detach())


def row(name: str, result: dict[str, Any]) -> str:
    """A line of the table: GiB, planned/measured; there is no plan of a load."""
    planned, measured = result["planned"], result["measured"]

    def cell(phase: str) -> str:
        beside = f"{planned[phase] / 2**30:.2f}" if phase in planned else ""
        return f"{beside}/{measured[phase] / 2**30:.2f}" if phase in measured else ""

    peaks = max(planned.values()), max(measured.values())
    peak = f"{peaks[0] / 2**30:.2f}/{peaks[1] / 2**30:.2f} {peaks[0] / peaks[1] - 1:+.1%}"
    return f"{name:<32}{peak:>20}" + "".join(f"{cell(phase):>14}" for phase in PHASES) + f"{result['seconds']:>8.0f} s"


def main() -> None:
    """Print a row for each process, and JSON to --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="launch/runs/frontier_1b.yaml")
    parser.add_argument("--ds_config", nargs="+", default=SHIPPED)
    parser.add_argument("--ram", default="20GiB", help="what the plan may reach")
    parser.add_argument("--directory", type=Path, help="where the checkpoint goes; 8 bytes a parameter, removed again")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        n_layers, folder, resumes = options.worker
        run = sized_run(options.config, options.ds_config[0], int(n_layers))
        result = train(run, Path(folder) / "checkpoints", resumes == "True")
        (Path(folder) / "result.json").write_text(json.dumps(result))
        return
    results = {}
    print(f"GiB, planned/measured\n{'':<32}{'peak':>20}" + "".join(f"{phase:>14}" for phase in PHASES))
    for ds_config in options.ds_config:
        limit = parse_size(options.ram, "--ram")
        n_layers = deepest(lambda n, ds_config=ds_config: sized_run(options.config, ds_config, n), limit)  # type: ignore[misc]
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            for resumes in (False, True):
                command = [sys.executable, __file__, "--config", options.config, "--ds_config", ds_config]
                command += ["--worker", str(n_layers), folder, str(resumes)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                result = json.loads((Path(folder) / "result.json").read_text())
                name = f"{result['parameters'] / 1e9:.2f}B {Path(ds_config).stem}{' resumed' if resumes else ''}"
                results[name] = result
                print(row(name, result), flush=True)
        first, second = list(results.values())[-2:]
        assert first["losses"] == second["losses"], (first["losses"], second["losses"])
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
