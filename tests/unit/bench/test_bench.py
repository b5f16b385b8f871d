"""`genesis-ds bench` refuses what it cannot do before it spends minutes."""

import pytest

from genesis_ds.bench import command as bench
from genesis_ds.errors import UserError


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--steps", "0"], "--steps: 0 is not allowed; give 1 or more"),
        (["--warm_up", "1"], "--warm_up: 1 is not allowed; give 2 or more"),
        (["--rounds", "2"], "--rounds: is for --against"),
        (["--max_seconds", "nan"], "--max_seconds: nan is not allowed"),
        (["--json", "nowhere/result.json"], "--json: nowhere/result.json is in no directory that is there"),
        (["--largest", "2GiB"], "--largest: is for --against"),
        (["--against", "plain", "--rounds", "0"], "--rounds: 0 is not allowed"),
        (["--against", "plain", "--save"], "--against: compares loops as they are"),
        (["--against", "megatron"], "--against: 'megatron' is not known; give plain or accelerate"),
        (["--trace", "trace.json"], "--trace: is of the step that --profile looks at"),
        (["--profile", "--trace", "a.json", "--json", "./a.json"], "--trace: a.json is the file of --json"),
        (["--profile", "--trace", "nowhere/t.json"], "--trace: nowhere/t.json is in no directory that is there"),
    ],
)
def test_a_wrong_option_is_said_first(flags, complaint, monkeypatch, tmp_path):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        bench.main(flags)
