"""`deepspeed --hostfile` on two hosts trains as two ranks of one host do, and answers Ctrl-C by saving."""

import os
import signal

import pytest
from helpers.forks import train_whole
from helpers.jobs import Job

STEPS = 20


@pytest.mark.parametrize(
    "ds_config",
    ["zero2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero3", "zero2_offload"))],
)
def test_losses_are_those_of_one_host_and_ctrl_c_saves(bed, make_job, ds_config):
    arguments = ("--ds_config", f"ds_configs/{ds_config}.json", "--checkpoint.every", 4000)
    one_host = Job(bed.folder, f"one-host-{ds_config}", "python", 2, "--max_steps", STEPS, *arguments)
    train_whole(one_host)
    job = make_job("--max_steps", 4000, *arguments)
    command = job.start()
    job.until_step(STEPS)
    os.killpg(command.pid, signal.SIGINT)  # a Ctrl-C reaches the launcher and its pdsh
    took = job.until_gone()
    losses = [loss for step, loss in job.losses() if step <= STEPS]
    assert losses == pytest.approx([loss for _, loss in one_host.losses()], abs=1e-6)
    assert (job.directory / "checkpoints/latest").read_text().strip() == f"step-{job.steps()[-1]:08}"
    assert took < 30
    last_words = (job.directory / "log.txt").read_text().splitlines()[-2:]  # pdsh, which ended at once, has lost them
    assert last_words[0].startswith("stopped    by SIG")
    assert last_words[1] == "exit code 75"
