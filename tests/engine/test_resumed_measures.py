"""What hooks measure in a run that goes on from a checkpoint."""

import json

MEASURED = ("memorisation/", "sample/")


def measured(run):
    """Step -> what has been measured of memorisation and written as samples."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {record["global_step"]: {n: v for n, v in record.items() if n.startswith(MEASURED)} for record in records}
    return {step: of_step for step, of_step in found.items() if of_step}


def test_a_resumed_run_knows_its_canaries_and_writes_samples_as_one_that_was_not_interrupted(train_py, tmp_path):
    canaries = ("--memorisation.canaries", 4, "--memorisation.repetitions", "[1, 4]")
    often = ("--evaluation.every", 1, "--samples.every", 2, "--checkpoint.every", 3, "--max_steps", 6)
    alone = ("--tasks.lm", 1, "--alignment.every", 0, "--clustering.every", 0, "--trajectory.every", 0)
    for name, more in (("whole", ()), ("resumed", ("--resume", tmp_path / "runs/whole/checkpoints/step-00000003"))):
        done = train_py("--name", name, *canaries, *often, *alone, *more)
        assert done.returncode == 0, done.stdout[-4000:]
    whole, resumed = (measured(tmp_path / "runs" / name) for name in ("whole", "resumed"))
    assert list(whole) == [1, 2, 4, 6]
    assert resumed == {step: found for step, found in whole.items() if step > 3}
    last = resumed[6]
    for repetitions in (1, 4):
        exposure = f"memorisation/canaries/exposure/repeated_{repetitions}"
        assert {exposure, f"{exposure}/at_step_0"} <= last.keys()
    assert {"sample/qaa", "memorisation/qaa/membership_auc/at_step_0"} <= last.keys()
