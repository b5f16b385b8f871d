"""`genesis-ds bench --against` with the real engine."""

import json

import pytest
from helpers.forks import run_forked
from helpers.jobs import ROOT, Job, prepare


@pytest.fixture
def bench(tmp_path):
    """Measure our loop and two plain ones; return what was printed, and the result."""

    def start(*words, script="genesis_ds/__main__.py"):
        job, out = Job(prepare(tmp_path), "against", "python", 1), tmp_path / "against.json"
        of_bench = ["--ds_config", ROOT / "ds_configs/zero2.json", "--against", "plain", "--json", out]
        of_bench += ["--optimizer.implementation", "torch"]
        done = run_forked(script, ["bench", *job.arguments, *of_bench, *words])
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout, json.loads(out.read_text())

    return start


def test_our_loop_and_two_plain_ones_take_turns_on_the_same_text(bench):
    only_ours = ["--masking.kind", "random", "--masking.loss_weight", 1, "--data.chapter_order", "shuffled"]
    printed, result = bench("--rounds", 2, "--warm_up", 2, "--steps", 2, "--tasks.lm", 2, *only_ours)
    assert list(result["tokens_per_second"]) == ["zero2", "as_is", "best"]
    tokens = {name: turns[0]["tokens"] for name, turns in result["turns"].items()}
    assert tokens["zero2"] == tokens["best"] == 2 * 8 * 64
    assert 0 < tokens["as_is"] < tokens["best"], "verses are shorter than a row"
    assert all(bytes_ > 0 for bytes_ in result["host_bytes"].values())
    assert "zero2 / best" in result["ratios"]
    assert "as_is" in printed
    assert result["left out"] == ["masking", "data.chapter_order"]
    assert "without the run's masking, data.chapter_order" in printed


def test_an_engine_that_memory_does_not_suffice_to_build_leaves_nothing_to_the_other_loops(bench):
    words = ["--rounds", 2, "--warm_up", 2, "--steps", 1]
    printed, result = bench(*words, script="tests/engine/no_memory_to_build.py")
    assert [name for name, speed in result["tokens_per_second"].items() if not speed] == ["zero2"]
    assert "models left: 0" in printed
