"""`genesis-ds tune` with the real engine."""

import json

import pytest
from helpers.forks import run_forked
from helpers.jobs import ROOT, Job, prepare

from genesis_ds.ds_config import load_ds_config
from genesis_ds.tuning.trials import Bench
from genesis_ds.user_files import load_yaml

ZERO2 = str(ROOT / "ds_configs/zero2.json")
SHAPE = {"n_layers": 2, "dim": 32, "n_heads": 2, "intermediate_size": 64}
RUN = {"model": SHAPE, "batch": {"seq_len": 64, "global_batch_size": 4, "micro_batch_size": 2}}


def test_a_candidate_is_trained_in_a_process_and_one_that_does_not_fit_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bench = Bench(tmp_path / "results.json", ranks=1, steps=1, machine="here")
    trained = bench.measure(RUN, load_ds_config(ZERO2), seconds=200, threads=2)
    assert trained.tokens_per_second > 0
    assert trained.host_bytes > 2**20
    large = SHAPE | {"dim": 65536, "intermediate_size": 65536}
    assert bench.measure(RUN | {"model": large}, load_ds_config(ZERO2), seconds=200).problem == "does not fit"
    assert len(json.loads(bench.path.read_text())["trials"]) == 2


@pytest.mark.slow
def test_the_fastest_is_written_as_a_run_that_trains_and_the_next_start_measures_nothing_again(tmp_path):
    job, out = Job(prepare(tmp_path), "tuned", "python", 1), tmp_path / "tuned.yaml"
    words = [*job.arguments, "--batch.global_batch_size", 2, "--batch.micro_batch_size", 1]
    words += ["--ds_config", ZERO2, "--ds_configs", ZERO2, "--output", out, "--steps", 1, "--limit", 20]
    first, second = (run_forked("genesis_ds/__main__.py", ["tune", *words], timeout=1200) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stdout[-3000:]
    assert _found(first.stdout) == _found(second.stdout)
    assert load_yaml(out).values["batch"]["global_batch_size"] == 2
    trained = run_forked("launch/train.py", ["--config", out, "--ds_config", ZERO2, "--max_steps", 1])
    assert trained.returncode == 0, trained.stdout[-3000:]


def _found(output):
    """Return the lines of a start but for those that say that planning takes its time."""
    return [line for line in output.splitlines() if not line.startswith("planning ")]
