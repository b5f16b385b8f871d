"""The memory plan against the real engine on the CPU, for every shipped ds_config, in the environment a user has.

    PYTHONPATH=. python tests/bench/memory_plan.py [--layers 20 80] [--only zero2_offload ...] [--out FILE.json]

Each row is one `genesis-ds bench` of deep_narrow_80 with 20 layers (0.15B) or 80 (0.57B), in a process of its own: the
highest memory it holds (anonymous and shared pages, sampled every 20 ms) beside the plan's peak, both with the process
itself. Weights are bf16 as on a GPU, whose memory is the host's here; that is slow on a CPU, so a micro-step has two
tokens. With --precision fp32 and --tokens 1024 a row is what a run on a CPU holds, activations included. --model
conv_mixer:ConvMixer puts a model of one's own, from this directory, in the decoder's place. Rows are written to --out
as they come; those that it has already are not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in ROOT.glob("ds_configs/*.json"))
PHASES = ("init", "forward", "backward", "step", "save")
MICRO_STEPS = 2
"""Accumulation, as in every shipped run."""


def measure(
    ds_config: str, n_layers: int, *, precision: str, tokens: int, model: str | None, timeout: float
) -> dict[str, Any]:
    """One `genesis-ds bench`: what it measured and what the plan had said, in bytes by phase."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "genesis_ds", "bench", "--config", "launch/runs/deep_narrow_80.yaml"]
        command += ["--ds_config", f"ds_configs/{ds_config}.json", "--model.n_layers", str(n_layers)]
        command += ["--precision", precision, "--batch.seq_len", str(tokens), "--batch.micro_batch_size", "1"]
        command += ["--batch.global_batch_size", str(MICRO_STEPS), "--steps", "1", "--warm_up", "2", "--save"]
        command += ["--extensions.model", model, "--tasks.lm", "1"] if model else []
        path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
        done = subprocess.run(
            [*command, "--json", str(out)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        result = json.loads(out.read_text())
    measured = {name: result["phases"][name]["host"] for name in PHASES}
    return {"parameters": result["parameters"], "measured": measured, "planned": result["predicted"]["host"]}


def row(name: str, result: dict[str, Any]) -> str:
    """A line of the table, in GiB: the peak, then each phase, planned/measured."""

    def cell(planned: int, measured: int) -> str:
        return f"{planned / 2**30:.2f}/{measured / 2**30:.2f} {planned / measured - 1:+5.1%}"

    planned, measured = result["planned"], result["measured"]
    cells = [cell(max(planned.values()), max(measured.values()))]
    cells += [cell(planned[phase], measured[phase]) for phase in PHASES]
    return f"{name:<28}" + "".join(f"{text:>20}" for text in cells)


def main() -> None:
    """Print the table, and JSON to --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", nargs="+", type=int, default=[20, 80], help="depths; 20 are 0.15B, 80 are 0.57B")
    parser.add_argument("--only", nargs="+", choices=SHIPPED, default=SHIPPED, metavar="DS_CONFIG", help=str(SHIPPED))
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--tokens", type=int, default=2, help="of a micro-step")
    parser.add_argument("--model", help="module:Class of a model of one's own in this directory")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one row")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    print(f"GiB, planned/measured\n{'':<28}" + "".join(f"{name:>20}" for name in ("peak", *PHASES)))
    for n_layers, ds_config in product(options.layers, options.only):
        name = f"{ds_config}, {n_layers} layers"
        key = f"{name}, {options.precision}, {options.tokens} tokens" + (f", {options.model}" if options.model else "")
        if key not in results:
            results[key] = measure(
                ds_config,
                n_layers,
                precision=options.precision,
                tokens=options.tokens,
                model=options.model,
                timeout=options.timeout,
            )
        print(row(name, results[key]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
