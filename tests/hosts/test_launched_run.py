"""`deepspeed --hostfile` on two hosts trains as two ranks of one host do, and answers Ctrl-C and SIGTERM by saving."""

import os
import signal
from itertools import cycle, islice

import pytest
from helpers.forks import train_whole
from helpers.jobs import Job

STEPS = 20
SILENCE = 6


def ctrl_c(job, command):
    """A Ctrl-C reaches the launcher and its pdsh, which closes the ranks' output at once."""
    os.killpg(command.pid, signal.SIGINT)


def sigterm(job, command):
    """A SIGTERM reaches the deepspeed command alone."""
    [found] = [process for process in job.launchers() if "deepspeed.launcher.runner" in process.cmdline()[:3]]
    found.send_signal(signal.SIGTERM)


def saved_step(job):
    return int((job.directory / "checkpoints/latest").read_text().strip().removeprefix("step-"))


def last_words(job):
    return (job.directory / "log.txt").read_text().splitlines()[-2:]  # pdsh, which ended at once, has lost them


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
    ctrl_c(job, command)
    took = job.until_gone()
    losses = [loss for step, loss in job.losses() if step <= STEPS]
    assert losses == pytest.approx([loss for _, loss in one_host.losses()], abs=1e-6)
    assert saved_step(job) == job.steps()[-1]
    assert took < 30
    words = last_words(job)
    assert words[0].startswith("stopped    by SIG")
    assert words[1] == "exit code 75"


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_every_stop_through_pdsh_saves_and_the_same_command_goes_on(make_job, times):
    job = make_job("--max_steps", 100_000, "--ds_config", "ds_configs/zero2.json", "--checkpoint.every", 50_000)
    step = 0
    for stop in islice(cycle((sigterm, ctrl_c)), times):
        command = job.start()
        job.until_step(step + 5)
        stop(job, command)
        job.until_gone()
        assert last_words(job)[1] == "exit code 75"
        assert saved_step(job) == job.steps()[-1] >= step + 5
        step = saved_step(job)
    assert job.steps() == [*range(1, step + 1)]


def test_ctrl_c_with_the_link_cut_empties_both_hosts(bed, make_job):
    job = make_job("--max_steps", 100_000, "--checkpoint.every", 5, "--ds_config", "ds_configs/zero2.json")
    exports = (bed.folder / ".deepspeed_env").read_text()
    (bed.folder / "silence").write_text(f"{exports}GENESIS_DS_LOST_AFTER={SILENCE}\n")
    job.environment["DS_ENV_FILE"] = "silence"
    command = job.start()
    job.until_step(5)
    job.until((job.directory / "checkpoints/latest").exists, "a checkpoint")
    try:
        bed.link("down")
        ctrl_c(job, command)
        took = job.until_gone()
    finally:
        bed.link("up")
    assert took < 3 * SILENCE + 10
    words = last_words(job)
    assert f"rank 0 (node-1): nothing was heard of rank 1 (node-2) for {SILENCE} s" in words[0]
    assert "the same command goes on from " in words[0]
    assert words[1] in ("exit code 130", "exit code 143")  # Ctrl-C's SIGINT, or what the launcher makes of it
