"""torchrun on each of two hosts, as docs/hosts.md has it."""

import signal
import subprocess
import sys

import pytest
from helpers.jobs import ROOT, free_port


class Torchruns:
    """A torchrun on each host for one job, and what each of them prints."""

    def __init__(self, bed, job):
        self.job, self.logs = job, [bed.folder / f"{job.name}-{number}.log" for number in (1, 2)]
        port = free_port()
        self.launchers = []
        for number, log in zip((1, 2), self.logs, strict=True):
            words = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_id", "1", "--rdzv_backend", "c10d"]
            words += ["--rdzv_endpoint", f"node-1:{port}", "--shutdown-timeout", "600"]
            words += ["--log-dir", f"{job.folder}/torchrun-{job.name}", "--tee", "3"]
            command = [sys.executable, "-m", "torch.distributed.run", *words, str(ROOT / "launch/train.py")]
            with open(log, "wb") as file:
                self.launchers.append(
                    subprocess.Popen(
                        [*bed.enter(number), *command, *job.arguments],
                        cwd=ROOT,
                        env=job.environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def said(self, number):
        return self.logs[number - 1].read_text(errors="replace")

    def torchrun(self, number):
        """The process of torchrun itself, below the one that has entered the host."""
        [found] = [p for p in self.job.launchers() if p.ppid() == self.launchers[number - 1].pid]
        return found


@pytest.fixture
def torchruns(bed, make_job):
    job = make_job("--max_steps", 100_000, "--checkpoint.every", 5, "--ds_config", "ds_configs/zero2.json")
    job.environment["GENESIS_DS_LOST_AFTER"] = "10"
    started = Torchruns(bed, job)
    job.until(lambda: job.has_reported(6) or any(p.poll() for p in started.launchers), "step 6")
    job.log.write_text(started.said(1) + started.said(2))
    job.until_step(6)
    return started


def test_one_torchrun_that_is_told_to_stop_has_both_hosts_save(torchruns):
    job = torchruns.job
    torchruns.torchrun(1).send_signal(signal.SIGTERM)
    job.until_gone()
    assert f"stopped    by SIGTERM after step {job.steps()[-1]}; the same command goes on" in torchruns.said(1)
    assert (job.directory / "checkpoints/latest").read_text().strip() == f"step-{job.steps()[-1]:08}"


def test_the_summaries_name_the_rank_that_failed_and_why(torchruns):
    job = torchruns.job
    job.ranks()[1].kill()
    job.until_gone()
    assert all(launcher.wait(10) == 1 for launcher in torchruns.launchers)
    assert "rank      : 1 (local_rank: 0)" in torchruns.said(2)
    assert "exitcode  : -9" in torchruns.said(2)
    summary = torchruns.said(1).partition("Root Cause")[2]
    assert "rank      : 0 (local_rank: 0)" in summary
    assert "error_file: <N/A>" not in summary
    assert "RuntimeError: lost node-2 (rank 1): " in summary
    assert "deepspeed/" not in summary  # no traceback of 25 lines


def test_a_rank_that_is_suspended_is_silent_and_ends_as_soon_as_it_goes_on(torchruns):
    job = torchruns.job
    suspended = job.ranks()[1]
    suspended.suspend()
    assert torchruns.launchers[0].wait(90) == 1
    assert "nothing was heard of rank 1 (node-2) for 10 s" in torchruns.said(1).partition("Root Cause")[2]
    assert suspended.is_running()
    suspended.resume()
    job.until_gone()
    assert torchruns.launchers[1].wait(10) == 1
