"""Modular arithmetic through launch/train.py: the positive control of grokking."""

import json

import pytest

TRAIN, VALIDATION = ("val/train_subset/arithmetic/accuracy", "val/validation/arithmetic/accuracy")
TINY = (
    *("--arithmetic.modulus", 11, "--model.dim", 32, "--model.n_heads", 2, "--model.intermediate_size", 64),
    *("--batch.global_batch_size", 36, "--optimizer.lr", 1e-2),
    *("--max_steps", 40, "--log_every", 1, "--evaluation.every", 5),
)


def records(run):
    return {row["global_step"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}


def measured(rows, after=0):
    """What a run found after a step, without speeds and memory."""
    kinds = ("train/", "val/", "optim/", "grokking/")
    return {n: {k: v for k, v in row.items() if k.startswith(kinds)} for n, row in rows.items() if n > after}


def test_a_run_learns_its_training_pairs_and_a_resumed_one_repeats_it_bit_for_bit(train_arithmetic, tmp_path):
    arguments = (*TINY, "--batch.micro_batch_size", 12, "--checkpoint.every", 20, "--checkpoint.keep_last", 2)
    done = train_arithmetic("--name", "whole", *arguments)
    assert done.returncode == 0, done.stdout[-4000:]
    checkpoint = tmp_path / "runs/whole/checkpoints/step-00000020"
    resumed = train_arithmetic("--name", "resumed", "--resume", checkpoint, *arguments)
    assert resumed.returncode == 0, resumed.stdout[-4000:]
    whole, again = (records(tmp_path / "runs" / name) for name in ("whole", "resumed"))
    assert measured(again) == measured(whole, after=20)
    assert len(again) == 20
    assert whole[40][TRAIN] > 0.9 > 0.5 > whole[40][VALIDATION]
    assert whole[40]["train/accuracy/lm"] > 0.9
    assert whole[36]["train/epoch"] == 36


def test_two_ranks_see_the_same_pairs_and_judge_the_same_accuracies(train_arithmetic, tmp_path):
    assert train_arithmetic("--name", "one", *TINY, "--batch.micro_batch_size", 36).returncode == 0
    two_ranks = train_arithmetic("--name", "two", *TINY, "--batch.micro_batch_size", 18, ranks=2)
    assert two_ranks.returncode == 0, two_ranks.stdout[-4000:]
    one, two = (records(tmp_path / "runs" / name) for name in ("one", "two"))
    losses = {name for name in one[10] if name.endswith(("/loss", "/accuracy"))}
    assert {TRAIN, VALIDATION, "train/loss"} <= losses
    for name in losses:
        assert two[10][name] == pytest.approx(one[10][name], abs=1e-3), name


def test_partitioned_weights_have_the_ranks_of_whole_ones_and_two_ranks_the_progress_of_one(train_arithmetic, tmp_path):
    arguments = (*TINY, "--max_steps", 5, "--trajectory.every", 5)
    assert train_arithmetic("--name", "one", *arguments, "--batch.micro_batch_size", 36).returncode == 0
    launcher = ("torchrun", "--standalone", "--nproc_per_node=2")
    zero3 = ("--ds_config", "ds_configs/zero3.json", "--batch.micro_batch_size", 18)
    done = train_arithmetic("--name", "two", *arguments, *zero3, launcher=launcher)
    assert done.returncode == 0, done.stdout[-4000:]
    one, two = (records(tmp_path / "runs" / name)[5] for name in ("one", "two"))
    names = [name for name in one if name.startswith(("ranks/", "progress/"))]
    assert {"ranks/layer_0/attention.wq/stable_rank/at_step_0", "progress/restricted_loss"} <= set(names)
    assert len(names) == 7 * 2 * 2 + 4
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-6 if name.endswith("at_step_0") else 0.02), name


def control(train_arithmetic, tmp_path, *arguments):
    """The whole run: the steps where its training and validation accuracies are reached, and the events' kinds."""
    done = train_arithmetic(*arguments, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    rows = records(tmp_path / "runs/modular_addition")
    judged = {step: row for step, row in rows.items() if TRAIN in row}
    memorised = next(step for step, row in judged.items() if row[TRAIN] >= 0.99)
    generalised = next((step for step, row in judged.items() if row[VALIDATION] >= 0.95), None)
    events = [event["kind"] for row in rows.values() for event in row.get("events", {}).get("lm/arithmetic", [])]
    return memorised, generalised, events


@pytest.mark.slow
def test_the_positive_control_memorises_long_before_it_generalises_and_is_announced(train_arithmetic, tmp_path):
    memorised, generalised, events = control(train_arithmetic, tmp_path)
    assert generalised - memorised >= 0.5 * memorised
    assert "grokked" in events


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [("--arithmetic.train_share", 0.15), ("--arithmetic.train_share", 0.25, "--optimizer.weight_decay", 0)],
    ids=["too few pairs", "no weight decay"],
)
def test_a_negative_control_memorises_and_is_not_announced(train_arithmetic, tmp_path, change):
    _, generalised, events = control(train_arithmetic, tmp_path, *change)
    assert generalised is None
    assert "memorised" in events
    assert "grokked" not in events
