"""Seconds and memory of building an engine: the model with its initial weights, then DeepSpeed's buffers.

    PYTHONPATH=. python tests/bench/building.py [--layers 20 78] [--out FILE.json]

Nothing is trained. Each row is a process of its own, in bf16 on a CPU, whose memory holds what a GPU would hold as
well: the highest it has, beside the plan's peak of phase init, and seconds of a billion parameters.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import lm_engine, on_one_cpu

from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.config.resolve import SizedRun
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine.distributed import initialise, leave, set_environment
from genesis_ds.engine.meter import Meter
from genesis_ds.engine.ranks import Ranks
from genesis_ds.memory.planner import AllocatorSettings, make_plan
from genesis_ds.model.multitask import LM
from genesis_ds.training.preparation import machine_of


def build(config: str, ds_config: str, n_layers: int) -> dict[str, Any]:
    """Build an engine in this process: parameters, bytes planned and measured, seconds."""
    flags = ["--config", config, "--ds_config", ds_config, "--precision", "bf16"]
    arguments = parse_arguments(flags, OwnFlags(), "building.py", "")
    run = replace(arguments.run, model=replace(fit_vocabulary(arguments.run), n_layers=n_layers), tasks={LM: 1.0})
    resolved = on_one_cpu(run, json.loads(Path(ds_config).read_text()))
    ranks = Ranks.from_environment()
    set_environment(ranks)
    initialise(ranks)

    sized = SizedRun(run, fit_vocabulary(run), resolved, tasks=(LM,), heads=())
    planned = make_plan(sized, machine_of(ranks), AllocatorSettings.from_environment())
    meter, started = Meter(), time.process_time()
    with meter("init"):
        lm_engine(run, resolved, ranks)
    seconds = time.process_time() - started
    meter.close()
    leave()
    return {
        "parameters": planned.parameters,
        "planned": planned.host.phases["init"],
        "measured": meter.phases["init"].host,
        "cpu_seconds": seconds,
        "seconds": meter.phases["init"].seconds,
    }


def main() -> None:
    """Print a row for each depth, and JSON to --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="launch/runs/frontier_1b.yaml")
    parser.add_argument("--ds_config", default="ds_configs/zero2_offload.json")
    parser.add_argument("--layers", nargs="+", type=int, default=[20, 78])
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        options.worker.write_text(json.dumps(build(options.config, options.ds_config, *options.layers)))
        return
    results = {}
    for n_layers in options.layers:
        command = [sys.executable, __file__, "--config", options.config, "--ds_config", options.ds_config]
        with tempfile.NamedTemporaryFile() as out:
            subprocess.run([*command, "--layers", str(n_layers), "--worker", out.name], check=True, capture_output=True)
            row = results[n_layers] = json.load(out)
        gib = {key: row[key] / 2**30 for key in ("planned", "measured")}
        billions = row["parameters"] / 1e9
        print(
            f"{n_layers} layers, {billions:.2f}B: {gib['planned']:.2f} GiB planned, {gib['measured']:.2f} measured; "
            f"{row['cpu_seconds'] / billions:.1f} CPU seconds a billion, {row['seconds'] / billions:.1f} of the clock"
        )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
