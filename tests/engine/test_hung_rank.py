"""A rank that lives and hangs is given up by the others after the stated time, in the groups of DeepSpeed too."""

import re
import time

from helpers.jobs import ROOT

SECONDS = 15
HANGING = f"""
import os, runpy
from datetime import timedelta
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine

at_start, step, n_steps = distributed._longest_wait, Engine.step, 0
def limit():
    distributed._longest_wait = lambda: timedelta(seconds={SECONDS})
    limited()
    distributed._longest_wait = at_start
limited, distributed.limit_waiting = distributed.limit_waiting, limit
def hang(self, *args, **named):
    global n_steps
    n_steps += 1
    while n_steps == 3 and os.environ["RANK"] == "1":
        pass
    return step(self, *args, **named)
Engine.step = hang
runpy.run_path({str(ROOT / "launch/train.py")!r}, run_name="__main__")
"""


def test_a_rank_in_an_endless_loop_ends_the_run_in_the_time_of_the_process_groups(train_py, tmp_path):
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    started = time.monotonic()
    done = train_py("--max_steps", "9", "--ds_config", "ds_configs/zero2.json", ranks=2, script=script)
    assert done.returncode == 1
    assert re.search(f"error: rank 0: .*[Tt]imed out.*{SECONDS}000 ?ms", done.stdout), done.stdout[-3000:]
    assert re.search("error: rank 1: rank 0 .* is gone", done.stdout)
    assert time.monotonic() - started > SECONDS
