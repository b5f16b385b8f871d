"""What only a GPU can show, in one command: python tests/gpu/measure.py --out tests/gpu/results/CARD.json

(a) attention: the kernel that runs and its error against fp32 math, for each backend, on whole rows and packed verses;
(b) plan: every shipped ds_config, predicted against measured memory of each phase;
(c) frontier: under a cap that stands for a 12 GB desktop card (torch-reserved + context <= 11.2 GiB), the frontier
    models at 2048 and 4096 tokens, then for each ds_config the plan's largest model and one 5 % larger.

Every run is a process of its own, so an out-of-memory error ends only that one. --toy runs tiny models without a cap,
on a CPU as well: it shows that the harness works, and nothing about a GPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from genesis_ds.config import ModelConfig
from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError
from genesis_ds.memory import search
from genesis_ds.memory.hardware import find_hardware
from genesis_ds.memory.situation import Situation
from genesis_ds.model.attention_proof import prove_attention
from genesis_ds.training.run import train_arguments

ROOT = Path(__file__).parents[2]
DS_CONFIGS = sorted(ROOT.glob("ds_configs/*.json"))
FRONTIER = ("frontier_1b", "tower_144", "frontier_2b")
CAP = "11.2GiB"
TOY = ["--model.preset", "tower_144_tiny", "--model.n_layers", "4", "--batch.seq_len", "64"]
TOY += ["--batch.micro_batch_size", "2", "--batch.global_batch_size", "4"]


def attention(toy: bool) -> Iterator[dict[str, Any]]:
    """Part (a)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for backend, n_kv_heads, packed in product(("flash_attn", "sdpa_flash", "sdpa"), (16, 4), (False, True)):
        model = ModelConfig(dim=1024, n_heads=16, n_kv_heads=n_kv_heads, vocab_size=260, attention=backend)
        row: dict[str, Any] = {"backend": backend, "n_kv_heads": n_kv_heads, "packed": packed}
        try:
            proof = prove_attention(model, device, torch.bfloat16, 64 if toy else 2048, packed)
            row |= {"kernel": proof.kernel, "max_error": proof.max_error}
        except UserError as error:
            row["refused"] = str(error)
        yield row


def plan(toy: bool, steps: int) -> Iterator[dict[str, Any]]:
    """Part (b)."""
    for ds_config in DS_CONFIGS:
        yield bench(ds_config, "rtx4070_optimal", TOY if toy else [], steps, save=True)


def frontier(toy: bool, steps: int) -> Iterator[dict[str, Any]]:
    """Part (c)."""
    for name in FRONTIER:
        for seq_len in (2048, 4096):
            sizes = ["--batch.seq_len", str(seq_len), "--batch.micro_batch_size", "1", "--batch.global_batch_size", "4"]
            yield bench(ROOT / "ds_configs/zero2_offload.json", name, TOY if toy else sizes, steps, cap=not toy)
    for ds_config in DS_CONFIGS:
        largest = 4 if toy else largest_layers(ds_config)
        for n_layers, holds in ((largest, True), (-(-largest * 21 // 20), False)):
            sizes = [*(TOY if toy else []), "--model.n_layers", str(n_layers)]
            yield bench(ds_config, "frontier_1b", sizes, 3, cap=not toy) | {"should_hold": holds or toy}


def largest_layers(ds_config: Path) -> int:
    """Layers of frontier_1b's width that the plan says a 12 GB desktop card holds."""
    run = train_arguments(["--config", str(ROOT / "launch/runs/frontier_1b.yaml")]).run
    run = replace(run, model=replace(run.model, vocab_size=260))
    situation = Situation(run, "run", load_ds_config(str(ds_config)), ds_config.name, find_hardware("rtx4070"))
    return search.largest(situation, "layers")[0]


def bench(
    ds_config: Path, run: str, overrides: list[str], steps: int, save: bool = False, cap: bool = False
) -> dict[str, Any]:
    """One `genesis-ds bench`: its result, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "genesis_ds.cli", "bench", "--config", str(ROOT / f"launch/runs/{run}.yaml")]
        command += ["--ds_config", str(ds_config), "--steps", str(steps), "--warm_up", "2", "--json", str(out)]
        command += ["--memory.enforce", "false", *overrides, *(["--save"] if save else [])]
        command += ["--vram_cap", CAP] if cap else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
        row: dict[str, Any] = {"held": done.returncode == 0, "overrides": overrides}
        measured = json.loads(out.read_text()) if row["held"] else {"ended": done.stderr.strip().splitlines()[-1:]}
        return row | measured | {"run": run, "ds_config": ds_config.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the JSON file to write; it is written again after every part")
    parser.add_argument("--steps", type=int, default=5, help="measured optimizer steps of a run")
    parser.add_argument("--parts", nargs="+", default=["attention", "plan", "frontier"])
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        sys.exit("error: no CUDA device here; --toy shows on a CPU that the harness works")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {"device": device, "torch": torch.__version__, "toy": options.toy}
    parts = {
        "attention": lambda: attention(options.toy),
        "plan": lambda: plan(options.toy, options.steps),
        "frontier": lambda: frontier(options.toy, options.steps),
    }
    for name in options.parts:
        result[name] = list(parts[name]())
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {len(result[name])} results in {options.out}", flush=True)


if __name__ == "__main__":
    main()
