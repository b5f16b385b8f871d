"""Killed at any moment, a run ends in bounded time, and its next start goes on as if nothing had been.

A sample; run_all.sh does the whole.
"""

import re

import pytest
from helpers.forks import train_whole
from helpers.jobs import Job, prepare
from killing import CONFIGURATIONS, Kill, run_configuration, run_killed

FAULT_IN_RANK_1 = """
import os
fsync = os.fsync
def faulty(file):
    name = os.readlink(f"/proc/self/fd/{file}")
    if "step-00000020" in name and "optim_states" in name and os.environ.get("RANK") == "1":
        raise IndexError("not foreseen")
    fsync(file)
os.fsync = faulty
"""


def test_a_run_killed_in_training_and_inside_a_save_ends_like_the_whole_one(tmp_path):
    arguments = ("--max_steps", 40, "--checkpoint.every", 10, "--ds_config", "ds_configs/zero2_offload.json")
    whole = Job(prepare(tmp_path), "whole", "deepspeed", 2, *arguments)
    train_whole(whole)
    killed = Job(tmp_path, "killed", "deepspeed", 2, *arguments)
    killed.slow_saves(1)
    outcome = run_killed(killed, [Kill("rank"), Kill("all", "save")], whole.losses(), seed=0)
    assert outcome.faults == []
    assert outcome.inside_save[1]
    [line] = {line for line in killed.output().splitlines() if " is gone" in line}
    assert re.search(r"^error: rank [01]: rank [01] \(process \d+\) is gone; ", line)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "launcher", "n_ranks"), CONFIGURATIONS)
def test_a_run_killed_eight_times_ends_like_the_whole_one(tmp_path, config, launcher, n_ranks):
    outcome = run_configuration(prepare(tmp_path), config, launcher, n_ranks, seed=n_ranks)
    assert outcome.faults == []


def test_a_rank_that_raises_says_so_and_ends_the_job_at_once(tmp_path):
    job = Job(prepare(tmp_path), "raises", "torchrun", 2, "--max_steps", 4000, "--checkpoint.every", 10)
    job.patch(FAULT_IN_RANK_1)
    assert job.start().wait(100) == 1
    job.until_gone()
    assert "Traceback" in job.output()
    assert "error: rank 1: IndexError: not foreseen; the same command goes on from " in job.output()
    assert re.search(r"error: rank 0: rank 1 \(process \d+\) is gone; the same command goes on from ", job.output())


@pytest.mark.slow
def test_a_dead_rank_is_missed_by_one_that_is_busy_and_does_not_hear_from_it(tmp_path):
    job = Job(prepare(tmp_path), "busy", "deepspeed", 2, "--max_steps", 4000, "--checkpoint.every", 10)
    job.slow_saves(300)
    process = job.start()
    job.until(job.is_saving, "a save")
    victim = job.ranks()[1]
    victim.kill()
    assert job.until_gone() < 60
    assert process.wait() not in (0, 75)
    assert f"error: rank 0: rank 1 (process {victim.pid}) is gone; no checkpoint has been saved" in job.output()
