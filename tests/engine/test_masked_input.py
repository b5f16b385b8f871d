"""Masked input in a run that is stopped and resumed, and on two ranks."""

import pytest
from test_train_command import records


@pytest.mark.slow
def test_the_masks_are_the_same_after_a_resume_and_on_two_ranks(train_py, tmp_path):
    masked = ("--masking.kind", "span", "--masking.share", 0.5, "--masking.ramp", 3)
    runs = {
        "plain": [{}],
        "whole": [{"flags": masked}],
        "parts": [{"flags": (*masked, "--max_steps", 2)}, {"flags": masked}],
        "ranks": [{"flags": masked, "ranks": 2}],
    }
    losses = {}
    for name, starts in runs.items():
        for start in starts:
            flags = ("--name", name, "--tasks.lm", 1, *start.get("flags", ()))
            done = train_py(*flags, ranks=start.get("ranks", 1))
            assert done.returncode == 0, done.stdout[-4000:]
        found = records(tmp_path / "runs" / name)
        losses[name] = [record["train/loss"] for record in found if "train/loss" in record]
    assert losses["parts"] == losses["whole"]
    assert losses["ranks"] == pytest.approx(losses["whole"], abs=1e-4)
    for masked_loss, plain in zip(losses["whole"], losses["plain"], strict=True):
        assert masked_loss != pytest.approx(plain, abs=1e-4)
