"""One run of each study of tests/bench/published.py, trained again (docs/grokking.md has what they gave)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACCURACY = "val/{}/arithmetic/accuracy"


@pytest.fixture
def rerun(tmp_path):
    """Train the run of a name alone; return its file's content."""

    def train(name):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "tests/bench/published.py", "--out", str(tmp_path), "--only", name]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1200)
        [file] = tmp_path.glob("*.json")
        return json.loads(file.read_text())

    return train


def first(run, split, least):
    return next((row["step"] for row in run["rows"] if row[ACCURACY.format(split)] >= least), None)


def kinds(run):
    return [event["kind"] for event in run["events"]]


@pytest.mark.slow
def test_the_rule_is_found_long_after_the_pairs_are_known_and_announced(rerun):
    run = rerun("power")
    assert first(run, "validation", 0.95) > 2 * first(run, "train_subset", 0.99)
    assert kinds(run)[-1] == "grokked"


@pytest.mark.slow
def test_fewer_pairs_take_more_steps(rerun):
    run = rerun("shares-add-0.55-s0")
    assert first(run, "validation", 0.95) > 1.5 * first(run, "train_subset", 0.99)


@pytest.mark.slow
def test_two_layers_find_the_rule_of_subtraction_long_after_its_pairs(rerun):
    run = rerun("two_layers-subtract-0.7-s2")
    assert first(run, "validation", 0.95) > 1.5 * first(run, "train_subset", 0.99)
    assert kinds(run)[-1] == "grokked"


@pytest.mark.slow
def test_larger_initial_weights_take_longer(rerun):
    run = rerun("scales-4-s0")
    assert first(run, "validation", 0.95) > 300


@pytest.mark.slow
def test_the_key_frequencies_become_few_and_carry_the_answers(rerun):
    run = rerun("nanda")
    measured = [row for row in run["rows"] if "progress/restricted_loss" in row]
    before, after = measured[1], measured[-1]
    assert after["progress/key_frequencies"] < before["progress/key_frequencies"] / 2
    assert after["progress/restricted_loss"] < 0.5 < before["progress/restricted_loss"]
    assert after["progress/excluded_loss"] > 1
    assert after["progress/embedding_gini"] > before["progress/embedding_gini"] + 0.2
