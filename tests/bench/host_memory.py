"""Bytes per parameter of the real DeepSpeed engine on the CPU, beside what genesis_ds.memory predicts.

    PYTHONPATH=. python tests/bench/host_memory.py [--layers 4 8] [--width 1536] [--only CASE ...] [--out FILE.json]

DeepSpeed's CPU accelerator keeps "GPU" and host tensors in one process, so its resident memory is their sum. Each
configuration runs at two depths, each in a process of its own; the slope between the two leaves out whatever does not
grow with the model. Weights are bf16, as on a GPU, which is slow on a CPU: eight tokens a step, so that activations
vanish as well. Layers are wide, so that what Python and DeepSpeed keep of a layer, whatever its width, is little beside
its weights (docs/memory.md says how much), and each matrix is a mapping of its own. 30-90 s per configuration.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import lm_engine, on_one_cpu
from helpers.memory_walk import walk_states

from genesis_ds.bench.command import save
from genesis_ds.config import BatchConfig, GrokfastConfig, ModelShape, OptimizerConfig, RunConfig
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import initialise, leave, set_environment
from genesis_ds.engine.ranks import Ranks
from genesis_ds.memory.deepspeed.stages import BufferConfig, deepspeed_buffers
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.shapes import parameters
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.lm import as_batch, cross_entropy

ROOT = Path(__file__).parents[2]
NVME_PATH = Path(tempfile.gettempdir()) / "genesis_ds_bench_nvme"
OFFLOAD: dict[str, dict[str, Any]] = {
    "cpu": {"device": "cpu", "pin_memory": True},
    "nvme": {"device": "nvme", "nvme_path": str(NVME_PATH), "buffer_count": 5},
}
OFFLOAD["nvme, pipelined"] = OFFLOAD["nvme"] | {"buffer_count": 12, "pipeline_read": True, "pipeline_write": True}
BF16_MASTER = {"bf16": {"bf16_master_weights_and_grads": True}}
BF16_STATES = {"bf16": {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}}
FP32_ACCUMULATION = {"data_types": {"grad_accum_dtype": "fp32"}}
STEPS = 3
"""Optimizer steps: Adam's moments appear in the first, and the second is the first with all buffers."""
TOKENS = 8
"""Of a micro-step."""
PHASES = ("init", "backward 1", "step 1", f"backward {STEPS}", f"step {STEPS}", "settled", "save")


@dataclass(frozen=True)
class Case:
    """One configuration to measure."""

    stage: int
    accumulation: int = 1
    offload_optimizer: str | None = None
    """A key of OFFLOAD."""
    offload_param: str | None = None
    more: tuple[tuple[str, Any], ...] = ()
    """Sections that the ds_config has as well."""
    grokfast: bool = False
    rounding: str = "auto"
    """Of bf16 masters."""

    def ds_config(self) -> dict[str, Any]:
        """The ds_config; small buckets, which do not grow with the model."""
        zero: dict[str, Any] = {"stage": self.stage}
        if self.stage:
            zero |= {"reduce_bucket_size": 4_000_000}
        if self.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 10_000, "sub_group_size": 20_000_000}
            zero |= {"stage3_prefetch_bucket_size": 2_000_000}
        for section in ("offload_optimizer", "offload_param"):
            if getattr(self, section):
                zero[section] = OFFLOAD[getattr(self, section)]
        config: dict[str, Any] = {"zero_optimization": zero, "bf16": {"enabled": True}}
        for section, values in self.more:
            config[section] = config.get(section, {}) | values
        return config

    def config(self, model: ModelShape) -> RunConfig:
        """The run of a model."""
        nearest = any(values == BF16_MASTER["bf16"] for _, values in self.more)
        optimizer = OptimizerConfig(
            implementation="cpu_adam" if self.offload_optimizer else "torch",
            master_rounding="nearest" if nearest else self.rounding,
            grokfast=GrokfastConfig(lamb=2.0 if self.grokfast else 0.0),
        )
        batch = BatchConfig(seq_len=TOKENS, micro_batch_size=1, global_batch_size=self.accumulation)
        return RunConfig(max_steps=STEPS, model=model, batch=batch, optimizer=optimizer, precision="bf16")

    def resolved(self, model: ModelShape) -> Resolved:
        """What its engine gets."""
        return on_one_cpu(self.config(model), self.ds_config())


def _cases() -> dict[str, Case]:
    cases = {}
    for stage in (2, 3):
        name, param = f"zero{stage}_offload", "cpu" if stage == 3 else None
        cases[name] = Case(stage, 1, "cpu", param)
        cases[f"{name} accumulating"] = Case(stage, 2, "cpu", param)
        for label, more in (
            ("fp32 accumulation", FP32_ACCUMULATION),
            ("bf16 master", BF16_MASTER),
            ("bf16 master and states", BF16_STATES),
        ):
            cases[f"{name} accumulating, {label}"] = Case(stage, 2, "cpu", param, tuple(more.items()))
        cases[f"{name}_bf16"] = Case(stage, 1, "cpu", param, tuple(BF16_STATES.items()))
        cases[f"{name}_bf16 kahan"] = Case(stage, 1, "cpu", param, tuple(BF16_STATES.items()), rounding="kahan")
        cases[f"{name} accumulating, grokfast"] = Case(stage, 2, "cpu", param, grokfast=True)
    cases["zero3 optimizer offload"] = Case(3, 2, "cpu")
    for kind in ("nvme", "nvme, pipelined"):
        cases[f"zero3 {kind}"] = Case(3, 2, kind, "cpu")
    for stage in range(4):
        cases[f"zero{stage}"] = Case(stage)
        cases[f"zero{stage} accumulating"] = Case(stage, 2)
    for stage in (1, 2, 3):
        cases[f"zero{stage} accumulating, fp32 accumulation"] = Case(stage, 2, more=tuple(FP32_ACCUMULATION.items()))
    return cases


CASES = _cases()


def model(n_layers: int, width: int) -> ModelShape:
    """At width 1536 28.9M parameters a layer (frontier_2b: 20M), each matrix above 4 MiB."""
    shape = {"n_layers": n_layers, "dim": width, "n_heads": width // 64, "intermediate_size": width * 11 // 4}
    return ModelShape(**shape, vocab_size=260, max_seq_len=128)


def predict(case: Case, config: ModelShape) -> dict[str, int]:
    """Phase -> bytes at its peak, GPU and host together, as they are in one process of the CPU accelerator."""
    resolved = case.resolved(config)
    config_of_buffers = BufferConfig(
        resolved.config,
        1,
        resolved.optimizer_implementation,
        accelerator="cpu",
        grokfast=case.grokfast,
        compensates=case.rounding == "kahan",
    )
    timeline = Timeline()
    states = deepspeed_buffers(parameters(config), config_of_buffers, timeline, timeline)
    states.init()
    for step in range(1, STEPS + 1):
        timeline.start(f"backward {step}")
        walk_states(states)
        timeline.start(f"step {step}")
        states.step()
    timeline.start("settled")
    timeline.start("save")
    states.save()
    return {phase: timeline.peak(phase).nbytes for phase in PHASES}


def peak_bytes() -> int:
    """Highest resident memory of this process since the last call, by the kernel's own count (proc(5), clear_refs)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run_engine(case: Case, config: ModelShape, out: Path) -> None:
    """Train STEPS steps in this process and write phase -> its peak, in bytes above those before it, to out."""
    peaks: dict[str, int] = {}

    def end(phase: str) -> None:
        gc.collect()
        peaks[phase] = peak_bytes()

    ranks = Ranks.from_environment()
    set_environment(ranks)
    initialise(ranks)
    warm = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    warm(torch.ones(TOKENS, 64, dtype=torch.bfloat16)).sum().backward()
    end("warm")
    end("start")
    engine = lm_engine(case.config(config), case.resolved(config), ranks)
    end("init")
    batch = as_batch(np.arange(TOKENS + 1)[None])
    for step in range(1, STEPS + 1):
        for _ in range(case.accumulation):
            engine.backward(cross_entropy(engine.forward(LM, batch), batch.labels["targets"]))
        end(f"backward {step}")
        engine.step({LM})
        end(f"step {step}")
    end("settled")
    with tempfile.TemporaryDirectory(dir=out.parent) as directory:
        save(engine, Path(directory), ranks)
    end("save")
    out.write_text(json.dumps({phase: peaks[phase] - peaks["start"] for phase in PHASES}))
    leave()


def measure(name: str, n_layers: int, width: int, timeout: float = 600) -> dict[str, int]:
    """Phase -> highest resident bytes of a process that trains CASES[name], above those at its start."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "peaks.json"
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, __file__, "--worker", name, str(n_layers), str(width), str(out)]
        done = subprocess.run(command, env=environment, timeout=timeout, capture_output=True, text=True)
        shutil.rmtree(NVME_PATH, ignore_errors=True)
        if done.returncode:
            raise RuntimeError(
                f"{name}, {n_layers} layers: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return json.loads(out.read_text())


def compare(name: str, depths: tuple[int, int], width: int) -> dict[str, Any]:
    """Bytes per parameter of each phase's peak, predicted and measured, as the slope between two depths."""
    shallow, deep = (model(n_layers, width) for n_layers in depths)
    n_parameters = deep.n_parameters - shallow.n_parameters
    predictions = [predict(CASES[name], config) for config in (shallow, deep)]
    started = time.monotonic()
    measurements = [measure(name, n_layers, width) for n_layers in depths]

    def slope(pair: list[dict[str, int]]) -> dict[str, float]:
        return {phase: round((pair[1][phase] - pair[0][phase]) / n_parameters, 3) for phase in PHASES}

    return {
        "case": asdict(CASES[name]),
        "parameters": [shallow.n_parameters, deep.n_parameters],
        "predicted": slope(predictions),
        "measured": slope(measurements),
        "measured_bytes": measurements[1],
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Print a table, and JSON to --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", nargs=2, type=int, default=[4, 8], help="two depths: 116M and 232M parameters")
    parser.add_argument("--width", type=int, default=1536, help="of the layers, a multiple of 64")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, n_layers, width, out = arguments.worker
        run_engine(CASES[name], model(int(n_layers), int(width)), Path(out))
        return
    results = {}
    print(f"bytes per parameter, predicted/measured\n{'':44}" + "".join(f"{phase:>16}" for phase in PHASES))
    for name in arguments.only:
        results[name] = compare(name, tuple(arguments.layers), arguments.width)
        row = (f"{results[name]['predicted'][phase]:.2f}/{results[name]['measured'][phase]:.2f}" for phase in PHASES)
        print(f"{name:44}" + "".join(f"{cell:>16}" for cell in row), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
