"""Hosts that differ are refused by name. Two ranks of this host stand for two hosts."""

import pytest
from helpers.jobs import ROOT


@pytest.fixture
def on_two_hosts(train_py, tmp_path):
    """Train on node-1 and node-2, of which the second runs `there` first; return the error lines."""

    def train(there, *arguments):
        script = tmp_path / "two_hosts.py"
        script.write_text(
            "import os, pathlib, runpy, socket, sys\n"
            "rank = os.environ['RANK']\n"
            "os.environ |= {'LOCAL_RANK': '0', 'LOCAL_WORLD_SIZE': '1', 'GLOO_SOCKET_IFNAME': 'lo'}\n"
            "socket.gethostname = lambda: f'node-{int(rank) + 1}'\n"
            f"if rank == '1':\n    {there}\n"
            f"runpy.run_path({str(ROOT / 'launch/train.py')!r}, run_name='__main__')\n"
        )
        done = train_py(*arguments, ranks=2, script=script)
        errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        assert done.returncode == (2 if errors else 0), done.stdout[-3000:]
        assert errors or "checkpoints" in done.stdout
        assert not errors or not (tmp_path / "runs").exists()
        return errors

    return train


def test_another_run_on_a_host_is_refused(on_two_hosts):
    (error,) = on_two_hosts("sys.argv += ['--optimizer.lr', '3e-5', '--seed', '77']")
    assert error.startswith(
        "error: node-2 differs from node-1: run.seed is 77 there, 0 here, run.optimizer.lr is 3e-05"
    )


def test_other_versions_are_refused_unless_allowed(on_two_hosts):
    there = "from genesis_ds import versions; versions.PACKAGES = ('torch',)"
    (error,) = on_two_hosts(there)
    assert "node-2 differs from node-1: version.deepspeed is None there" in error
    assert error.endswith("--allow different_versions")
    assert on_two_hosts(there, "--allow", "different_versions") == []


def test_a_run_directory_that_is_not_shared_is_found_at_the_start(on_two_hosts):
    there = "exists = pathlib.Path.exists; pathlib.Path.exists = lambda p: 'seen-by-all' not in p.name and exists(p)"
    (error,) = on_two_hosts(there)
    assert "output_dir: node-2 does not see " in error
    assert "of node-1: put output_dir on a file system that all hosts share" in error
