"""The GPU harness at toy size on this machine, so that it is ready when a GPU is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "tests/gpu/measure.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)


def test_attention_is_reported_for_every_backend(tmp_path):
    out = tmp_path / "toy.json"
    assert run("--toy", "--parts", "attention", "--out", str(out)).returncode == 0
    rows = json.loads(out.read_text())["attention"]
    assert {row["backend"] for row in rows} == {"flash_attn", "sdpa_flash", "sdpa"}
    assert all("kernel" in row for row in rows if row["backend"] == "sdpa")


@pytest.mark.slow
def test_every_part_runs_at_toy_size(tmp_path):
    out = tmp_path / "toy.json"
    done = run("--toy", "--steps", "2", "--parts", "plan", "frontier", "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    held = [row for row in result["plan"] + result["frontier"] if row["ds_config"] != "zero3_nvme.json"]
    assert all(row["held"] for row in held), [row.get("ended") for row in held]
    assert all({"predicted", "phases"} <= row.keys() for row in held)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_it_claims_nothing(tmp_path):
    done = run("--out", str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "none.json").exists()
