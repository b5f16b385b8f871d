"""`genesis-ds bench --against` with the real engine."""

import json

from helpers.forks import run_forked
from helpers.jobs import ROOT, Job, prepare


def test_our_loop_and_two_plain_ones_take_turns_on_the_same_text(tmp_path):
    job, out = Job(prepare(tmp_path), "against", "python", 1), tmp_path / "against.json"
    words = [*job.arguments, "--ds_config", ROOT / "ds_configs/zero2.json", "--against", "plain", "--json", out]
    words += ["--rounds", 2, "--warm_up", 2, "--steps", 2, "--optimizer.implementation", "torch"]
    done = run_forked("genesis_ds/__main__.py", ["bench", *words])
    assert done.returncode == 0, done.stdout[-3000:]
    result = json.loads(out.read_text())
    assert list(result["tokens_per_second"]) == ["zero2", "as_is", "best"]
    tokens = {name: turns[0]["tokens"] for name, turns in result["turns"].items()}
    assert tokens["zero2"] == tokens["best"] == 2 * 8 * 64
    assert 0 < tokens["as_is"] < tokens["best"], "verses are shorter than a row"
    assert all(bytes_ > 0 for bytes_ in result["host_bytes"].values())
    assert "zero2 / best" in result["ratios"]
    assert "as_is" in done.stdout
