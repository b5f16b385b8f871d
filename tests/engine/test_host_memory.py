"""What the memory model predicts against the real engine on the CPU, in bytes per parameter (tests/bench)."""

import json
import sys

import pytest
from helpers.jobs import ROOT, run_command

from genesis_ds.engine.compiled_ops import compiler_missing

STATES = {f"zero{stage}_offload{kind}" for stage in (2, 3) for kind in ("", " accumulating", "_bf16", "_bf16 kahan")}
OPTIONS = ("fp32 accumulation", "bf16 master", "bf16 master and states", "grokfast")


@pytest.mark.slow
@pytest.mark.skipif(compiler_missing() is not None, reason="DeepSpeedCPUAdam cannot be built")
def test_116m_to_232m_parameters_take_what_is_predicted_in_every_phase(tmp_path):
    options = [f"zero{stage}_offload accumulating, {option}" for stage in (2, 3) for option in OPTIONS]
    command = [sys.executable, ROOT / "tests/bench/host_memory.py", "--out", tmp_path / "results.json"]
    done = run_command([*command, "--only", *sorted(STATES), *options], timeout=2400)
    assert done.returncode == 0, done.stdout[-8000:]
    results = json.loads((tmp_path / "results.json").read_text())
    for name in STATES:
        for phase, predicted in results[name]["predicted"].items():
            assert results[name]["measured"][phase] == pytest.approx(predicted, rel=0.03), (name, phase)
    for stage in (2, 3):
        plain = results[f"zero{stage}_offload accumulating"]
        for option in OPTIONS:
            other = results[f"zero{stage}_offload accumulating, {option}"]
            measured, predicted = (
                other[kind]["settled"] - plain[kind]["settled"] for kind in ("measured", "predicted")
            )
            assert measured == pytest.approx(predicted, rel=0.02), (stage, option)
