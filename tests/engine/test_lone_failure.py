"""A rank that fails alone ends at once: the others wait for it in the middle of a step."""

from helpers.forks import run_forked
from helpers.jobs import ROOT, Job, prepare

FAILING = """
import os, runpy
from genesis_ds.engine.engine import Engine

def fail(*args, **named):
    raise MemoryError("of rank 1 alone")
if os.environ["RANK"] == "1":
    Engine.step = fail
runpy.run_module("genesis_ds", run_name="__main__")
"""


def test_a_measurement_ends_with_the_error_of_the_rank(tmp_path):
    job, script = Job(prepare(tmp_path), "failing", "python", 2), tmp_path / "failing.py"
    script.write_text(FAILING)
    words = [*job.arguments, "--ds_config", ROOT / "ds_configs/zero2.json", "--steps", 1]
    done = run_forked(script, ["bench", *words], ranks=2, timeout=100)
    assert done.returncode == 1
    assert "MemoryError: of rank 1 alone" in done.stdout
