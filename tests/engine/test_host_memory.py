"""What the memory model predicts against the real engine on the CPU, in bytes per parameter (tests/bench)."""

import json
import sys

import pytest
from helpers.jobs import ROOT, run_command

from genesis_ds.engine.compiled_ops import compiler_missing

ACCUMULATING = "zero2_offload accumulating"
STATES = {f"zero{stage}_offload{kind}" for stage in (2, 3) for kind in ("", " accumulating", "_bf16", "_bf16 kahan")}
OPTIONS = ("fp32 accumulation", "bf16 master", "bf16 master and states", "grokfast")

pytestmark = pytest.mark.skipif(compiler_missing() is not None, reason="DeepSpeedCPUAdam cannot be built")


@pytest.fixture
def compare(tmp_path):
    """Cases and two depths -> the results of tests/bench/host_memory.py."""

    def run(cases, layers):
        out = tmp_path / "results.json"
        command = [sys.executable, ROOT / "tests/bench/host_memory.py", "--layers", *map(str, layers), "--out", out]
        done = run_command([*command, "--only", *cases], timeout=2400)
        assert done.returncode == 0, done.stdout[-8000:]
        return json.loads(out.read_text())

    return run


@pytest.mark.slow
def test_a_small_model_takes_what_is_predicted(compare):
    result = compare([ACCUMULATING], (3, 6))[ACCUMULATING]
    for phase in ("init", "step 1", "settled", "save"):
        assert result["measured"][phase] == pytest.approx(result["predicted"][phase], rel=0.04), phase


@pytest.mark.slow
def test_60m_to_120m_parameters_take_what_is_predicted(compare):
    cases = [
        *sorted(STATES),
        *(f"zero{stage}_offload accumulating, {option}" for stage in (2, 3) for option in OPTIONS),
    ]
    results = compare(cases, (19, 38))
    for name in STATES:
        assert results[name]["measured"]["settled"] == pytest.approx(results[name]["predicted"]["settled"], rel=0.04)
    for stage in (2, 3):
        plain = results[f"zero{stage}_offload accumulating"]
        for option in OPTIONS:
            other = results[f"zero{stage}_offload accumulating, {option}"]
            measured, predicted = (
                other[kind]["settled"] - plain[kind]["settled"] for kind in ("measured", "predicted")
            )
            assert measured == pytest.approx(predicted, rel=0.02), (stage, option)
