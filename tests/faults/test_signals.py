"""Asked to stop, a run saves and leaves no process behind, whoever was asked and whoever started it."""

import os
import shutil
import signal
import time

import pytest
from helpers.forks import train_whole
from helpers.jobs import ROOT, Job, prepare

from genesis_ds.supervision.launchers import is_launcher

ZERO2 = ("--ds_config", "ds_configs/zero2_offload.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("signals"))


@pytest.fixture
def make_job(folder, request):
    """A job on the folder's corpus; what is left of it when the test has failed is killed."""
    made = []

    def make(launcher, n_ranks, *arguments):
        job = Job(folder, "".join(c if c.isalnum() else "-" for c in request.node.name), launcher, n_ranks, *arguments)
        made.append(job)
        return job

    yield make
    for job in made:
        for process in job.processes():
            process.kill()


def ask(job, process, whom, number):
    """Send the signal to the command itself, to the launcher that started the ranks, to the ranks, or to all."""
    if whom == "all":
        os.killpg(process.pid, number)
    elif whom == "ranks":
        for rank in job.ranks().values():
            rank.send_signal(number)
    else:
        job.launchers()[{"command": 0, "launcher": -1}[whom]].send_signal(number)


def saved_step(job):
    """Of the newest checkpoint, which is that of the last step reported."""
    step = int((job.directory / "checkpoints/latest").read_text().strip().removeprefix("step-"))
    assert step == job.steps()[-1]
    return step


def test_a_stopped_run_goes_on_as_if_it_had_never_been_stopped(make_job, folder):
    arguments = ("--max_steps", 40, "--checkpoint.every", 1000, *ZERO2)
    whole = Job(folder, "whole", "python", 1, *arguments)
    train_whole(whole)
    job = make_job("python", 1, *arguments)
    process = job.start()
    job.until_step(10)
    ask(job, process, "ranks", signal.SIGTERM)
    assert process.wait(100) == 75
    step = saved_step(job)
    assert f"stopped    by SIGTERM after step {step}; the same command goes on from " in job.output()
    assert not any(name.startswith("val/") for record in job.records() for name in record)
    assert job.start().wait(200) == 0, job.output()[-3000:]
    assert f": step {step}, " in job.output()
    assert job.losses() == whole.losses()


def test_sigterm_to_the_deepspeed_command_which_ends_without_its_ranks(make_job):
    job = make_job("deepspeed", 2, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    process = job.start()
    job.until_step(5)
    ask(job, process, "command", signal.SIGTERM)
    assert process.wait(100) == -signal.SIGTERM
    job.until_gone()
    assert f"stopped    by SIGHUP (the launcher or the terminal is gone) after step {saved_step(job)}" in job.output()


def test_before_the_first_step_and_asked_twice_a_run_stops_at_once(make_job):
    job = make_job("python", 1, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    process = job.start()
    job.until(lambda: "\nmemory " in job.output(), "the description of the run")
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 128 + signal.SIGINT
    assert "stopped at once by SIGINT, between two steps; no checkpoint has been saved" in job.output()
    job.slow_saves(300)
    process = job.start()
    job.until_step(5)
    process.send_signal(signal.SIGUSR1)
    job.until(job.is_saving, "a save")
    process.send_signal(signal.SIGTERM)  # the same request: the launcher's word for it
    time.sleep(2.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 128 + signal.SIGTERM
    assert "stopped at once by a second request, SIGTERM; no checkpoint has been saved" in job.output()
    job.until_gone()


BUSY = """
import os, torch
from genesis_ds.hooks.base import Hook
class Busy(Hook):
    @classmethod
    def build(cls, context):
        return cls()
    def before_training(self, global_step):
        print("measures the untrained model", flush=True)
        while not os.path.exists("ENOUGH"):
            torch.rand(300, 300) @ torch.rand(300, 300)
"""


def test_in_the_midst_of_the_first_evaluation_a_run_stops_at_once_and_the_same_command_begins_anew(make_job, folder):
    enough = folder / "enough"
    (folder / "busy.py").write_text(BUSY.replace("ENOUGH", str(enough)))
    job = make_job("python", 1, "--max_steps", 2, "--extensions.hooks", "{busy: busy:Busy}", *ZERO2)
    job.environment["PYTHONPATH"] = f"{folder}:{ROOT}"
    process = job.start()
    job.until(lambda: "measures the untrained model" in job.output(), "the first evaluation")
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 128 + signal.SIGTERM
    assert "stopped at once by SIGTERM, between two steps; no checkpoint has been saved" in job.output()
    assert not job.records()
    assert not list((job.directory / "checkpoints").glob("step-*"))
    enough.touch()
    assert job.start().wait(100) == 0, job.output()[-3000:]
    assert job.steps() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "n_ranks", "whom", "number", "exit_code"),
    [
        ("python", 1, "ranks", signal.SIGINT, 75),
        ("deepspeed", 1, "command", signal.SIGKILL, -9),
        ("deepspeed", 1, "launcher", signal.SIGTERM, 1),
        ("deepspeed", 2, "ranks", signal.SIGUSR1, 75),
        ("deepspeed", 2, "all", signal.SIGINT, -2),
        ("deepspeed", 2, "all", signal.SIGTERM, -15),
        ("deepspeed", 2, "launcher", signal.SIGKILL, 0),
        ("deepspeed", 2, "launcher", signal.SIGINT, 1),
        ("torchrun", 1, "command", signal.SIGTERM, 1),
        ("torchrun", 2, "ranks", signal.SIGTERM, 1),
        ("torchrun", 2, "command", signal.SIGHUP, 1),
        ("torchrun", 2, "command", signal.SIGKILL, -9),
    ],
)
def test_whoever_is_asked_the_run_saves(make_job, launcher, n_ranks, whom, number, exit_code):
    job = make_job(launcher, n_ranks, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    process = job.start()
    job.until_step(5)
    ask(job, process, whom, number)
    assert process.wait(100) == exit_code
    job.until_gone()
    assert f" after step {saved_step(job)}; " in job.output()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "whom"), [("deepspeed", "launcher"), ("deepspeed", "all"), ("torchrun", "command")]
)
def test_a_launcher_that_kills_after_30_seconds_lets_a_longer_save_end(make_job, launcher, whom):
    job = make_job(launcher, 2, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    job.slow_saves(45)
    process = job.start()
    job.until_step(5)
    ask(job, process, whom, signal.SIGTERM)
    job.until_gone()
    assert process.wait(100) != 0
    assert f"stopped    by SIGTERM after step {saved_step(job)}" in job.output()


@pytest.mark.slow
def test_a_suspended_launcher_ends_with_its_ranks_when_these_are_killed(make_job):
    job = make_job("deepspeed", 2, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    job.slow_saves(300)
    process = job.start()
    job.until_step(5)
    ask(job, process, "launcher", signal.SIGTERM)
    job.until(lambda: job.launchers()[-1].status() == "stopped", "the launcher's suspension")
    for rank in job.ranks().values():
        rank.kill()
    job.until_gone()
    assert process.wait(100) != 0


def test_a_run_whose_output_nobody_reads_any_more_trains_on_and_saves(make_job):
    job = make_job("python", 1, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    process = job.start(shutil.which("bash"), "-c", '"$@" 2>&1 | head -n 3', "bash")
    job.until_step(20)
    ask(job, process, "ranks", signal.SIGTERM)
    process.wait(100)
    job.until_gone()
    assert saved_step(job) >= 20


@pytest.mark.slow
def test_ctrl_c_ends_the_reader_of_the_output_as_well(make_job):
    job = make_job("deepspeed", 1, "--max_steps", 4000, "--checkpoint.every", 4000, *ZERO2)
    tee = [shutil.which("bash"), "-c", f'"$@" 2>&1 | tee {job.folder}/tee.log', "bash"]
    process = job.start(*tee)
    job.until_step(5)
    ask(job, process, "all", signal.SIGINT)
    process.wait(100)
    job.until_gone()
    saved_step(job)


def test_the_command_lines_of_launchers_are_known():
    assert is_launcher(["/venv/bin/python", "/venv/bin/deepspeed", "--num_gpus", "2", "launch/train.py"])
    assert is_launcher(["/venv/bin/python", "/venv/bin/torchrun", "--standalone", "launch/train.py"])
    assert is_launcher(["python", "-u", "-m", "deepspeed.launcher.launch", "--world_info=x"])
    assert not is_launcher(["python", "launch/keep_running.py", "--", "deepspeed", "launch/train.py"])
    assert not is_launcher(["python", "-u", "launch/train.py", "--name", "deepspeed"])
    assert not is_launcher(["bash", "-c", "deepspeed launch/train.py"])
