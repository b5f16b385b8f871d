"""The GPU protocol at toy size on this machine, so that it is ready when a GPU is."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import resume
from recording import ROOT, Command, Record, last_lines
from table import ending


def measure(*arguments, timeout=580):
    command = [sys.executable, "tests/gpu/measure.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def python(name, code, **limits):
    return Command("part", name, ["python", "-c", code], **({"expects": 0, "limit": 30} | limits))


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "card.json", {"toy": True}, 1, {})


def test_the_file_is_written_after_every_command(record):
    for n in (1, 2, 3):
        record.run(python(f"run {n}", "pass"))
        rows = json.loads(record.path.read_text())["parts"]["part"]
        assert [row["name"] for row in rows] == [f"run {n + 1}" for n in range(n)]
        assert all(row["ok"] and row["command"] == "python -c pass" for row in rows)


def test_a_command_that_takes_too_long_is_killed_with_all_it_started_and_the_next_goes_on(record, tmp_path):
    file = tmp_path / "pid"
    code = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
open({str(file)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    row = record.run(python("slow", code, limit=2))
    assert not row["ok"]
    assert row["killed_for"] == "time"
    assert row["ended"] == ["killed: it took more time than 2 s"]
    time.sleep(0.2)
    pid = int(file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert record.run(python("next", "pass"))["ok"]


def test_a_command_that_takes_more_host_memory_than_the_machine_it_stands_for_is_killed(record):
    row = record.run(
        python("large", "import time; x = bytearray(b'x' * 300_000_000); time.sleep(60)", host_limit=2**27)
    )
    assert row["killed_for"] == "host memory"
    assert row["ended"] == ["killed: it took more host memory than 0.1 GiB"]
    assert row["peak_host_bytes"] > 2**27


def test_what_forked_processes_share_is_not_counted_for_each(record):
    code = "import os, time; x = bytearray(3 * 10**8); x[::4096] = x[::4096]; os.fork() and os.fork(); time.sleep(2)"
    assert 3e8 < record.run(python("forked", code))["peak_host_bytes"] < 6e8


def test_what_there_is_no_time_for_is_left_out_with_its_command(record):
    assert record.run(python("long", "pass", expects=1000)) is None
    [out] = json.loads(record.path.read_text())["left_out"]
    assert out["command"] == "python -c pass"
    assert "expected to take 1000" in out["reason"]


def test_what_the_machine_lacks_is_left_out_with_the_reason(record):
    code = "raise SystemExit('error: NVMe offload (async_io) cannot be built')"
    assert record.run(python("nvme", code, optional="async_io")) is None
    assert record.content["left_out"][0]["reason"] == "error: NVMe offload (async_io) cannot be built"


def test_the_last_error_tells_why_a_command_failed():
    crash = "[rank0]: torch.utils.checkpoint.CheckpointError: values differ\n[rank0]: a tip\n[rank0]: another"
    assert last_lines(crash) == ["[rank0]: torch.utils.checkpoint.CheckpointError: values differ"]
    assert last_lines("one\ntwo\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("whole", "resumed", "again", "verdict"),
    [
        ({3: 1.0}, {3: 1.0}, {3: 1.0}, "resume is exact"),
        ({3: 1.0}, {3: 1.5}, {3: 1.5}, "RESUME IS NOT EXACT"),
        ({3: 1.0}, {3: 1.5}, {3: 1.2}, "this device does not repeat itself"),
        ({3: 1.0}, {3: 1.0}, {3: 1.5}, "resume is exact"),
    ],
)
def test_an_inexact_resume_and_a_device_that_does_not_repeat_itself_are_told_apart(
    whole, resumed, again, verdict, monkeypatch
):
    found = {Path(name): of for name, of in (("whole", whole), ("resumed", resumed), ("again", again))}
    monkeypatch.setattr(resume, "losses", lambda run, after: found[run])
    monkeypatch.setattr(resume, "weights", lambda run: {"w": torch.tensor([found[run][3]]).numpy()})
    compared = resume.compare(*found, after=2)
    assert compared["verdict"].startswith(verdict)
    assert compared["whole_to_resumed"]["largest_loss_difference"] == abs(whole[3] - resumed[3])
    assert compared["resumed_to_resumed"]["largest_weight_difference"] == pytest.approx(abs(resumed[3] - again[3]))


def test_attention_is_reported_for_every_backend_and_told_as_a_table(tmp_path):
    out = tmp_path / "toy.json"
    done = measure("--toy", "--parts", "attention", "--work", tmp_path / "work", "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    [row] = result["parts"]["attention"]
    assert {kernel["backend"] for kernel in row["kernels"]} == {"flash_attn", "sdpa_flash", "sdpa"}
    assert all("kernel" in kernel for kernel in row["kernels"] if kernel["backend"] == "sdpa")
    assert result["toy"]
    assert {"device", "driver", "cpu", "cores", "ram_bytes", "versions", "git_commit"} <= result["machine"].keys()
    table = measure("--table", out).stdout
    assert "Nothing here says anything about a GPU" in table
    assert "| sdpa | 16 | whole | " in table


@pytest.mark.parametrize(
    ("ok", "holds", "should_hold", "told"),
    [
        (True, True, True, "ran, as predicted"),
        (False, False, False, "out of memory, as predicted"),
        (False, False, True, "out of memory, AGAINST THE PREDICTION"),
        (True, True, False, "ran, AGAINST THE PREDICTION"),
        (False, None, False, "out of memory"),
    ],
)
def test_a_model_that_should_not_hold_and_does_is_told(ok, holds, should_hold, told):
    assert ending({"ok": ok, "ended": ["out of memory"], "holds": holds, "should_hold": should_hold}) == told


@pytest.mark.slow
def test_every_part_runs_at_toy_size(tmp_path):
    out = tmp_path / "toy.json"
    limits = ("--without", "nvme", "--minutes", 20)
    done = measure("--toy", *limits, "--work", tmp_path / "work", "--out", out, timeout=1300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    parts = result["parts"]
    assert all(row["ok"] for rows in parts.values() for row in rows), [
        row["ended"] for rows in parts.values() for row in rows if not row["ok"]
    ]
    assert parts["resume"][-1]["verdict"] == "resume is exact, bit for bit"
    assert all(row["largest_loss_difference"] < 1e-5 for row in parts["losses"])
    for row in parts["plain_loop"]:
        assert {f"{row['name']} / {plain}" for plain in ("as_is", "best")} <= row["ratios"].keys()
    benches = [
        row
        for name in ("frontier_1b", "compile", "ds_configs", "frontier_2b", "largest", "recomputed")
        for row in parts[name]
    ]
    assert all({"predicted", "phases", "peak_host_bytes"} <= row.keys() for row in benches)
    assert [row["should_hold"] for row in parts["largest"]] == [True, True]
    assert "| zero2 | init |" in measure("--table", out).stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_it_claims_nothing(tmp_path):
    done = measure("--work", tmp_path / "work", "--out", tmp_path / "none.json")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: no CUDA device here; --toy shows on a CPU that the harness works"
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "card.json", "--toy", "--minutes", "nan"], "--minutes: nan is not allowed"),
        (["--out", "/proc/nowhere/card.json", "--toy"], "--out: /proc/nowhere/card.json cannot be written"),
        (["--table", "README.md"], "--table: README.md is not a JSON file of this program's"),
    ],
)
def test_a_mistake_is_said_in_a_line_before_anything_is_run_or_written(arguments, complaint):
    done = measure(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
