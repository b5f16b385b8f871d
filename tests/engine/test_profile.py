"""`genesis-ds bench --profile` with the real engine."""

import json

import pytest
from helpers.forks import run_forked
from helpers.jobs import ROOT, Job, prepare

from genesis_ds.bench.command import TRACE_PREFIX


@pytest.mark.parametrize(("ds_config", "ranks"), [("zero2_offload", 2), ("zero3", 1)])
def test_a_step_is_told_by_its_parts_and_traced(tmp_path, ds_config, ranks):
    job, out, trace = Job(prepare(tmp_path), "profile", "python", ranks), tmp_path / "a.json", tmp_path / "trace.json"
    words = [*job.arguments, "--ds_config", ROOT / f"ds_configs/{ds_config}.json", "--json", out, "--trace", trace]
    words += ["--profile", "--warm_up", 2, "--steps", 1]
    done = run_forked("genesis_ds/__main__.py", ["bench", *words], ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:]
    result = json.loads(out.read_text())
    empty = {name for name, seconds in result["parts"].items() if not seconds}
    assert empty == ({"gather"} if ds_config == "zero2_offload" else set())
    assert result["operators"] > 100
    assert trace.read_bytes().startswith(TRACE_PREFIX), "or it is not replaced by the next"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"reduce", "hooks", "forward", "backward"} <= names
    assert "operators called" in done.stdout
