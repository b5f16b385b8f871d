"""The plateau schedule in a run that is stopped and resumed."""

from test_train_command import records

SAME_WHENEVER_STOPPED = ("optim/", "train/loss", "val/")


def test_a_run_resumed_in_a_stall_after_a_drop_goes_on_bit_for_bit(train_py, tmp_path):
    plateau = ("--schedule.kind", "plateau", "--schedule.patience", 2, "--schedule.warmup_steps", 1)
    for name, *more in (("whole",), ("parts", "--max_steps", 9), ("parts",)):
        flags = ("--name", name, "--tasks.lm", 1, "--optimizer.lr", 0.3, "--evaluation.every", 1, *plateau)
        done = train_py(*flags, "--max_steps", 12, *more)
        assert done.returncode == 0, done.stdout[-4000:]
    whole, parts = (
        [{key: value for key, value in record.items() if key.startswith(SAME_WHENEVER_STOPPED)} for record in found]
        for found in (records(tmp_path / "runs" / name) for name in ("whole", "parts"))
    )
    assert parts == whole
    drops = [step for step, record in enumerate(whole, 1) if "optim/lr_drop" in record]
    assert drops[0] < 9 < drops[1] < 12
    for step in drops[:2]:
        assert whole[step]["optim/lr"] == whole[step - 1]["optim/lr"] / 2
