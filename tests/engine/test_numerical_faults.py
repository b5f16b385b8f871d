"""A loss or a gradient that is not finite leaves no trace but a count; too many stop the run, or send it back."""

import json
import math
import re

import pytest

STEPS = 6
FAULTY = 2
"""The step that goes wrong, the first being 0."""
SAMPLES = 8
"""Of a step."""
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
OFFLOAD_ALL = {**OFFLOAD, "offload_param": {"device": "cpu"}}
FAULTS = {
    "loss nan, gradient finite": {"of": "value", "factor": "nan"},
    "gradient inf": {"of": "gradient", "factor": "inf"},
    "norm overflows": {"of": "loss", "factor": "1e30"},
}
NO_OVERFLOW = ("loss nan, gradient finite", "gradient inf")
"""Under ZeRO-3 a norm of 1e30 is finite, and clipped."""
ZERO = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero1, offload": {"stage": 1, **OFFLOAD},
    "zero2": {"stage": 2},
    "zero2, offload": {"stage": 2, **OFFLOAD},
    "zero3": {"stage": 3},
    "zero3, offload": {"stage": 3, **OFFLOAD_ALL},
}
AUTOCAST = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}


def cases_of(name, zero, fault, ranks, precision="fp32", implementation="torch", more=None):
    """A run that goes wrong in one micro-batch of the last rank, and one that leaves the step's data out."""
    accumulation = SAMPLES // (2 * ranks)
    common = {
        "ds_config": {"zero_optimization": {**zero, **({"reduce_bucket_size": 50000} if zero["stage"] else {})}}
        | (more or {}),
        "precision": precision,
        "implementation": implementation,
        "batch": {"micro_batch_size": 2},
        "decay": 0.8,
        "grokfast": {} if implementation == "cpu_adam" else {"alpha": 0.9, "lamb": 2.0},
        "measure": precision == "fp32" and zero["stage"] > 0 and not more,
    }
    at = {"pass": FAULTY * accumulation + accumulation - 2, "rank": ranks - 1}
    left_out = {"left_out": [[FAULTY * SAMPLES, (FAULTY + 1) * SAMPLES]]}
    return [
        common | {"name": f"{name}, faulty", "steps": STEPS, "fault": FAULTS[fault] | at},
        common | {"name": f"{name}, left out", "steps": STEPS - 1, "state": left_out},
    ]


def assert_no_trace(results, name):
    faulty, left_out = results[f"{name}, faulty"], results[f"{name}, left out"]
    losses = faulty["losses"]
    assert math.isnan(losses.pop(FAULTY)), name
    assert losses == left_out["losses"], name
    assert all(map(math.isfinite, losses)), name
    assert (faulty["skipped"], faulty["in_a_row"]) == (1, 0), name
    if "measured" in faulty:
        measured = faulty["measured"]
        assert measured.pop(FAULTY) == {}, name
        assert measured == left_out["measured"], name


def test_a_fault_on_one_rank_in_one_micro_batch_leaves_no_trace(train_cases):
    chosen = [
        ("zero0", "norm overflows", "torch"),
        ("zero2, offload", "loss nan, gradient finite", "cpu_adam"),
        ("zero3, offload", "gradient inf", "torch"),
    ]
    cases = [case for name, fault, kind in chosen for case in cases_of(name, ZERO[name], fault, 2, "fp32", kind)]
    results = train_cases(cases, 2)
    for name, _, _ in chosen:
        assert_no_trace(results, name)


def test_a_learning_rate_too_high_ends_the_run_with_exit_code_3_and_a_diagnosis(train_py, tmp_path):
    done = train_py("--optimizer.lr", 1e16, "--max_steps", 20, "--log_every", 100, "--checkpoint.every", 1)
    assert done.returncode == 3, done.stdout[-4000:]
    run = tmp_path / "runs/quickstart"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    skipped = {row["global_step"]: row for row in rows if "optim/skipped" in row}
    assert list(skipped) == [2, 3, 4, 5, 6]
    assert [row["optim/skipped_steps"] for row in skipped.values()] == [1, 2, 3, 4, 5]
    for row in skipped.values():
        assert row["optim/skipped"] in done.stdout
    [diagnosis] = json.loads((run / "diagnosis.json").read_text())
    assert diagnosis["skipped"] == [[start, start + SAMPLES] for start in range(8, 48, SAMPLES)]
    assert diagnosis["action"] == "stopped"
    assert diagnosis["origin"]["kind"] == "activation"
    assert diagnosis["origin"]["name"].startswith("base.layers.0.")
    error = done.stdout[done.stdout.index("error: ") :]
    assert diagnosis["origin"]["name"] in error
    assert "samples 8 to 47" in error
    assert "no good checkpoint yet" in error  # that of step 1 has the weights which cannot be trained on


@pytest.mark.parametrize("config", ["zero3_offload", pytest.param("zero2_offload", marks=pytest.mark.slow)])
def test_a_run_goes_back_once_and_leaves_out_the_data_it_cannot_bear(train_py, tmp_path, config):
    """With one rank: a run that faults in steps 5 and 6, whose data faults whenever it is met."""
    often = ("--max_steps", 10, "--checkpoint.every", 2, "--faults.max_skipped_in_a_row", 2)
    rewinding = (*often, "--faults.max_rewinds", 1, "--ds_config", f"ds_configs/{config}.json")
    done = train_py(*rewinding, script="tests/engine/nan_on_chosen_samples.py")
    assert done.returncode == 0, done.stdout[-4000:]
    run = tmp_path / "runs/quickstart"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["global_step"] for row in rows] == list(range(1, 11))
    assert not any("optim/skipped" in row for row in rows)
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    sequences = [sum(value for key, value in row.items() if key.startswith("train/sequences/")) for row in rows]
    assert sequences == [8, 16, 24, 32, 56, 64, 72, 80, 88, 96]
    [diagnosis] = json.loads((run / "diagnosis.json").read_text())
    assert diagnosis["action"] == f"rewound to {run / 'checkpoints/step-00000002'}"
    assert (diagnosis["skipped"], diagnosis["origin"]["name"]) == ([[32, 40], [40, 48]], "base.tok_embeddings")
    before, after = re.findall(r"  step  4/10 .*  lm (\S+)", done.stdout, re.MULTILINE)
    assert before == after


@pytest.mark.slow
def test_few_skipped_steps_do_not_stop_a_run_and_no_checkpoint_is_made_among_them(train_py, tmp_path):
    done = train_py(
        "--max_steps", 9, "--checkpoint.every", 3, "--log_every", 4, script="tests/engine/nan_on_chosen_samples.py"
    )
    assert done.returncode == 0, done.stdout[-4000:]
    run = tmp_path / "runs/quickstart"
    rows = {row["global_step"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    assert [step for step, row in rows.items() if "optim/skipped" in row] == [5, 6]
    assert rows[8]["optim/skipped_steps"] == 2
    assert math.isfinite(rows[8]["train/loss"])  # of steps 7 and 8
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == ["step-00000007", "step-00000009"]
    assert not (run / "diagnosis.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_no_fault_leaves_a_trace_under_any_stage_precision_and_optimizer(train_cases, ranks):
    cases, names = [], []
    for stage, zero in ZERO.items():
        kinds = ["torch", "cpu_adam"] if "offload_optimizer" in zero else ["torch"]
        rows = [(f"{kind}, {p}", p, kind, None) for kind in kinds for p in ("fp32", "bf16")]
        if "offload_optimizer" not in zero:
            rows.append(("autocast", "fp32", "torch", AUTOCAST))
        for how, *row in rows:
            for fault in FAULTS if zero["stage"] < 3 else NO_OVERFLOW:
                names.append(f"{stage}, {how}, {fault}")
                cases += cases_of(names[-1], zero, fault, ranks, *row)
    results = train_cases(cases, ranks)
    for name in names:
        assert_no_trace(results, name)
