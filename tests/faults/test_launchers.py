"""What a launcher was given and cannot be what was meant."""

import subprocess
import sys

import psutil
from helpers.jobs import ROOT, free_port, run_command

from genesis_ds.supervision.launchers import is_orphan


def test_a_hostfile_that_is_not_there_is_refused_and_no_run_on_this_host_alone(tmp_path):
    words = ["--hostfile", "no/such_hostfile", "--master_port", str(free_port()), str(ROOT / "launch/train.py")]
    done = run_command(
        [sys.executable, "-m", "deepspeed.launcher.runner", *words, "--output_dir", str(tmp_path / "runs")], 200
    )
    assert done.returncode == 2
    assert "error: --hostfile: no/such_hostfile: no such file, and this host is not to train alone" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_launcher_that_dies_as_it_is_looked_at_leaves_an_orphan():
    short = subprocess.Popen(["true"])
    launcher = psutil.Process(short.pid)
    short.wait()
    assert is_orphan([launcher])
