"""A cut link and a killed rank end the run on both hosts in a bounded time, with one line that names rank and host."""

import re
import signal

import pytest
from helpers.jobs import free_port

SILENCE = 6


@pytest.fixture
def job(make_job):
    job = make_job("--max_steps", 100_000, "--checkpoint.every", 5, "--ds_config", "ds_configs/zero2.json")
    job.environment["GENESIS_DS_LOST_AFTER"] = str(SILENCE)
    return job


def start(job, step):
    port = free_port()
    processes = [job.start_by_hand(number, port) for number in (1, 2)]
    job.until_step(step)
    job.until((job.directory / "checkpoints/latest").exists, "a checkpoint")
    return processes


def errors(job):
    assert "Traceback" not in job.output()
    return [line for line in job.output().splitlines() if line.startswith("error: ")]


def test_a_stop_with_the_link_cut_ends_both_hosts(bed, job):
    one, two = start(job, 5)
    try:
        bed.link("down")
        job.ranks()[0].send_signal(signal.SIGTERM)
        took = job.until_gone()
    finally:
        bed.link("up")
    assert took < 3 * SILENCE + 10
    assert (one.wait(10), two.wait(10)) == (128 + signal.SIGTERM, 1)
    found = errors(job)
    assert len(found) == 2
    on_one, on_two = sorted(found)
    assert f"rank 0 (node-1): nothing was heard of rank 1 (node-2) for {SILENCE} s" in on_one
    assert "rank 1 (node-2): " in on_two
    assert all("the same command goes on from " in line for line in found)
    assert on_one in (job.directory / "log.txt").read_text()
    assert on_two in (job.directory / "logs/rank-00001.txt").read_text()


def test_a_rank_that_is_killed_on_another_host_is_named(job):
    one, _ = start(job, 5)
    job.ranks()[1].kill()
    job.until_gone(30)
    assert one.wait(10) == 1
    (line,) = errors(job)
    assert re.match(r"error: rank 0 \(node-1\): lost node-2 \(rank 1\): .*\bConnection (reset|closed) by peer;", line)


def test_a_mistake_on_one_host_ends_both_and_names_it(make_job):
    job = make_job("--max_steps", 10, "--ds_config", "ds_configs/zero2.json")
    port = free_port()
    one = job.start_by_hand(1, port)
    two = job.start_by_hand(2, port, ["--model.n_layers", "none"])
    assert (one.wait(60), two.wait(60)) == (2, 2)
    assert re.search(r"error: .*model\.n_layers.*\(rank 1, on node-2\)", job.output())
    assert not job.directory.exists()
