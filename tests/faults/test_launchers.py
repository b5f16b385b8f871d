"""What a launcher was given and cannot be what was meant."""

import sys

from helpers.jobs import ROOT, free_port, run_command


def test_a_hostfile_that_is_not_there_is_refused_and_no_run_on_this_host_alone(tmp_path):
    words = ["--hostfile", "no/such_hostfile", "--master_port", str(free_port()), str(ROOT / "launch/train.py")]
    done = run_command(
        [sys.executable, "-m", "deepspeed.launcher.runner", *words, "--output_dir", str(tmp_path / "runs")], 200
    )
    assert done.returncode == 2
    assert "error: --hostfile: no/such_hostfile: no such file, and this host is not to train alone" in done.stdout
    assert not (tmp_path / "runs").exists()
