"""Disks that take no more, and disks that do not give back what they took."""

import os
import re
import resource
import shutil

import psutil
import pytest
from helpers.forks import train_whole
from helpers.jobs import Job, prepare

from genesis_ds.checkpoint.save.directory import newest_good

EVERY = ("--checkpoint.every", 10, "--ds_config", "ds_configs/zero2_offload.json")
FULL = ("prlimit", "--fsize=100000:unlimited")
"""No file can be larger, as on a disk with so much left: the optimizer's state does not fit."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing has happened to."""
    job = Job(folder, "whole", "python", 1, "--max_steps", 50, *EVERY)
    train_whole(job)
    return job


def test_a_run_without_room_for_a_checkpoint_goes_on_and_saves_when_there_is_some(folder, whole):
    job = Job(folder, "full", "python", 1, "--max_steps", 50, *EVERY, "--checkpoint.weights_per_decade", 4)
    process = job.start(*FULL)
    job.until(lambda: "_states.pt: File too large" in job.output(), "the warning")
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert process.wait(120) == 0, job.output()
    assert re.search(r"NOT SAVED at step 1: .*weights/step-00000001.safetensors: File too large", job.output())
    assert re.search(r"NOT SAVED at step \d+: .*_states.pt: File too large; trying again at step \d+,", job.output())
    assert job.losses() == whole.losses()
    assert (job.directory / "checkpoints/latest").read_text() == "step-00000050\n"
    assert not list((job.directory / "checkpoints").glob("*.tmp"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max_steps", 50, "--checkpoint.on_failure", "stop"),
        pytest.param(("--max_steps", 5), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_may_not_go_on_or_has_no_step_left_stops_with_one_line(folder, whole, arguments):
    job = Job(folder, f"stop_{arguments[1]}", "python", 1, *EVERY, *arguments)
    assert job.start(*FULL).wait(120) == 2
    errors = [line for line in job.output().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "_states.pt: File too large" in errors[0]
    assert not list((job.directory / "checkpoints").glob("step-*"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, 100), os.unlink], ids=["flip", "cut", "gone"])
def test_whichever_file_of_a_real_checkpoint_is_damaged_the_one_before_is_found(whole, tmp_path, damage):
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(whole.directory / "checkpoints", checkpoints)
    newest = checkpoints / "step-00000050"
    assert newest_good(checkpoints).path == newest
    contents = {path: path.read_bytes() for path in newest.iterdir()}
    assert {path.suffix for path in contents} == {".pt", ".json"}
    for path, content in contents.items():
        damage(path)
        found = newest_good(checkpoints)
        assert (found.path.name, len(found.notices)) == ("step-00000040", 1)
        assert found.notices[0].startswith(f"{path}: ")
        path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, whole):
    job = Job(folder, "damaged", "python", 1, "--max_steps", 50, *EVERY)
    shutil.copytree(whole.directory, job.directory)
    damaged = next((job.directory / "checkpoints/step-00000050").glob("*optim_states.pt"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    printed = train_whole(job)
    assert f"checkpoint {damaged}: " in printed
    assert f"resumed    {job.directory / 'checkpoints/step-00000040'}: step 40" in printed
    assert job.losses() == whole.losses()
