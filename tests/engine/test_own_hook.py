"""A hook of a user's own, in one module that `extensions.hooks` names, measures, keeps its state and is resumed."""

import json
from pathlib import Path

import pytest
from test_train_command import records

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
OWN = ("--tasks.lm", 1, "--extensions.hooks.descent", "toy_hook:Descent", "--hooks.descent", "{every: 2}")


def test_an_own_hook_measures_and_goes_on_where_its_checkpoint_left_it(train_py, tmp_path):
    for name, *more in (("whole",), ("parts", "--max_steps", 2), ("parts",)):
        done = train_py("--name", name, *OWN, *more, cwd=EXAMPLES)
        assert done.returncode == 0, done.stdout[-4000:]
    whole, parts = (records(tmp_path / "runs" / name) for name in ("whole", "parts"))
    measured = {record["global_step"]: record["toy/descent"] for record in whole if "toy/descent" in record}
    first = next(record["train/loss"] for record in whole if "train/loss" in record)
    last = whole[-1]["train/loss"]
    assert list(measured) == [2, 4]
    assert measured[4] == pytest.approx(first - last, abs=1e-6)
    assert parts[-1]["toy/descent"] == measured[4], "the first loss is in the checkpoint"
    [state] = (tmp_path / "runs/whole/checkpoints").glob("step-*/training_state.json")
    assert json.loads(state.read_text())["hooks"]["descent"] == {"version": 1, "state": {"first": first}}


def test_the_learning_rate_of_a_record_is_the_one_that_its_update_used(train_py, tmp_path):
    schedule = ("--schedule.kind", "constant", "--schedule.warmup_steps", 4, "--optimizer.lr", 0.008)
    assert train_py("--tasks.lm", 1, *schedule).returncode == 0
    rates = [record["optim/lr"] for record in records(tmp_path / "runs/quickstart") if "optim/lr" in record]
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ("--hooks.descend.every", 2),
            "hooks.descend: no hook of extensions.hooks has this name; did you mean 'descent'",
        ),
        (("--hooks.descent", "{evry: 2}"), "hooks.descent: "),
        (("--extensions.hooks.console", "toy_hook:Descent"), "extensions.hooks.console: console is built in"),
        (
            ("--extensions.hooks.descent", "toy_hook:Hok"),
            "toy_hook.py has no Hok; valid: Descent",
        ),
    ],
)
def test_a_hook_that_cannot_be_had_is_one_line(train_py, flags, complaint):
    done = train_py(*OWN, *flags, cwd=EXAMPLES)
    assert done.returncode == 2, done.stdout[-2000:]
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]
