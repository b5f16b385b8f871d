"""A sweep of real runs: killed, stopped and resumed; and what is refused before it starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]
SWEEP = f"""
name: tried
run: {ROOT}/launch/runs/modular_addition.yaml
ds_config: {ROOT}/ds_configs/zero2.json
output_dir: runs
fields: {{optimizer.lr: [1e-3, 3e-3], optimizer.weight_decay: [0.1, 1, 2]}}
set: {{evaluation.every: 5, batch.global_batch_size: 128, batch.micro_batch_size: 128}}
max_steps: 10
"""


@pytest.fixture
def sweep(tmp_path):
    def start(text, kill_after=None, by=signal.SIGKILL):
        """Run a sweep, or send it a signal once so many trials have begun; return exit code, output and errors."""
        (tmp_path / "sweep.yaml").write_text(text)
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "genesis_ds", "sweep", "sweep.yaml", "--json"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kill_after:
            begun = tmp_path / f"runs/tried/trial-{kill_after - 1:03}/config.yaml"
            while not begun.exists() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(by)
        out, errors = process.communicate(timeout=500)
        return process.returncode, [json.loads(line) for line in out.splitlines()], errors

    return start


@pytest.mark.slow
def test_a_sweep_killed_twice_and_resumed_has_every_trial_once(sweep, tmp_path):
    assert sweep(SWEEP, kill_after=2)[0] == -signal.SIGKILL
    code, _, errors = sweep(SWEEP, kill_after=4, by=signal.SIGTERM)
    assert code == 130, errors
    code, trials, errors = sweep(SWEEP)
    assert code == 0, errors
    assert sorted(trial["trial"] for trial in trials) == [0, 1, 2, 3, 4, 5]
    assert {trial["state"] for trial in trials} == {"complete"}
    values = [tuple(trial["values"].values()) for trial in sorted(trials, key=lambda trial: trial["trial"])]
    assert values == [(lr, decay) for lr in (1e-3, 3e-3) for decay in (0.1, 1, 2)]
    assert [trial["value"] for trial in trials] == sorted(trial["value"] for trial in trials)
    assert len(list((tmp_path / "runs/tried").glob("trial-*/config.yaml"))) == 6


@pytest.mark.slow
def test_what_cannot_fit_or_is_wrong_is_refused_before_it_starts_and_begun_settings_stay(sweep, tmp_path):
    text = SWEEP.replace("optimizer.lr: [1e-3, 3e-3], optimizer.weight_decay: [0.1, 1, 2]", "model.dim: [130, 65536]")
    code, trials, errors = sweep(text + "hardware: rtx4070\n")
    assert code == 1, "no trial has come to its end"
    why = {trial["values"]["model.dim"]: trial["why"] for trial in trials}
    assert "model.dim" in why[130]
    assert why[65536].startswith("does not fit: ")
    assert {trial["state"] for trial in trials} == {"fail"}
    assert not list((tmp_path / "runs/tried").glob("trial-*/*"))
    code, _, errors = sweep(text + "hardware: rtx4070\nseed: 1\n")
    assert (code, errors.count("\n")) == (2, 1)
    assert "seed: was 0 when" in errors
