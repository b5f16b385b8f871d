"""launch/keep_running.py: restarts what has crashed, and nothing else; stops with what it has started."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from helpers.jobs import ROOT, Job, prepare

KEEP = (sys.executable, "launch/keep_running.py", "--backoff", "0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("keep_running"))


def keep(*arguments):
    return subprocess.run([*KEEP, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def test_a_killed_run_is_started_again_and_ends_with_the_code_of_its_rank(folder):
    job = Job(folder, "killed", "torchrun", 1, "--max_steps", 40, "--checkpoint.every", 10)
    keeper = job.start(*KEEP, "--run", str(job.directory), "--")
    job.until_step(12)
    job.ranks()[0].kill()
    assert keeper.wait(200) == 0, job.output()[-3000:]
    assert "restart 1 of 10 in 0 s" in job.output()
    assert "step 10," in job.output()
    mistaken = Job(folder, "mistaken", "torchrun", 1, "--max_steps", 0)
    assert mistaken.start(*KEEP, "--").wait(200) == 2, mistaken.output()
    assert "restart" not in mistaken.output()


IO_ERROR_ONCE = """
import errno, os, numpy
load = numpy.load
def failing(path, *arguments, **options):
    if str(path).endswith(".tokens.npy") and not os.path.exists("MARK"):
        open("MARK", "w").close()
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return load(path, *arguments, **options)
numpy.load = failing
"""


def test_an_io_error_is_no_mistake_but_a_crash_which_is_started_again(folder, tmp_path):
    job = Job(folder, "io_error", "python", 1, "--max_steps", 20)
    job.patch(IO_ERROR_ONCE.replace("MARK", str(tmp_path / "mark")))
    assert job.start(*KEEP, "--").wait(200) == 0, job.output()[-3000:]
    assert job.output().count("Traceback") == 1
    assert "OSError: [Errno 5] Input/output error" in job.output()
    assert "keep_running: ended with 1 after" in job.output()
    assert job.steps()[-1] == 20


def test_a_command_that_makes_no_progress_is_given_up_and_one_that_does_is_not(tmp_path):
    done = keep("--restarts", "2", "--", "sh", "-c", f"echo start >> {tmp_path}/starts; exit 5")
    assert (done.returncode, (tmp_path / "starts").read_text()) == (5, "start\n" * 3)
    assert "restart 2 of 2" in done.stderr
    assert "given up" in done.stderr
    save = f"echo step >> {tmp_path}/checkpoints/latest; test $(wc -l < {tmp_path}/checkpoints/latest) = 5 || exit 5"
    (tmp_path / "checkpoints").mkdir()
    done = keep("--restarts", "2", "--run", str(tmp_path), "--", "sh", "-c", save)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: command"),
        (("--", "no-such-command"), "command: no-such-command: No such file or directory"),
        (("--", str(ROOT)), "Permission denied"),
        (("--backoff", "nan", "--", "true"), "--backoff: nan is not allowed"),
        (("--backoff", "-1", "--", "true"), "--backoff: -1.0 is not allowed"),
        (("--backoff", "inf", "--", "true"), "--backoff: inf is not allowed"),
        (("--backoff", "soon", "--", "true"), "argument --backoff: invalid float value: 'soon'"),
        (("--restarts", "-1", "--", "true"), "--restarts: -1 is not allowed"),
        (("--run", __file__, "--", "true"), "is no directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    done = subprocess.run([*KEEP[:2], *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_is_not_there_yet_is_a_warning_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    write = "import os; open(os.environ['GENESIS_DS_EXIT_CODE_FILE'], 'w').write('3'); os._exit(1)"
    done = keep("--run", str(tmp_path / "later"), "--", sys.executable, "-c", write)
    assert done.returncode == 3, done.stderr
    assert "later is not there yet" in done.stderr
    assert list(tmp_path.iterdir()) == []
    stuck = subprocess.Popen([*KEEP, "--", "sleep", "1000"], cwd=ROOT)
    while not psutil.Process(stuck.pid).children():
        assert stuck.poll() is None
    (child,) = psutil.Process(stuck.pid).children()
    stuck.kill()
    stuck.wait()
    child.kill()
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_a_crashed_command_leaves_survives(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import keep_running

    monkeypatch.setattr(keep_running, "LAST_SAVE", 0.1)
    start = keep_running.Start(["sh", "-c", "setsid sleep 1000 & exec sleep 1001"])
    while len(start.processes()) < 2:
        assert start.process.poll() is None
    start.process.kill()
    assert start.end() == 128 + signal.SIGKILL
    psutil.wait_procs(start.processes(), 10)
    assert start.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "n_ranks"), [("python", 1), ("deepspeed", 2), ("torchrun", 2)])
def test_asked_to_stop_it_lets_the_ranks_save_and_does_not_restart(folder, launcher, n_ranks):
    job = Job(folder, f"stopped-{launcher}", launcher, n_ranks, "--max_steps", 4000)
    keeper = job.start(*KEEP, "--")
    job.until_step(5)
    os.kill(keeper.pid, signal.SIGTERM)
    assert keeper.wait(100) == 75, job.output()[-3000:]
    assert job.processes() == []
    assert "stopped    by SIGTERM" in job.output()
    assert "restart" not in job.output()


def test_a_signal_reaches_the_run_though_a_process_of_it_ends_at_that_moment(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import keep_running

    start = keep_running.Start(["sleep", "1000"])
    short = subprocess.Popen(["true"])
    ended = psutil.Process(short.pid)
    short.wait()
    monkeypatch.setattr(start, "processes", lambda: [ended, psutil.Process(start.process.pid)])
    start.pass_on(signal.SIGTERM)
    monkeypatch.undo()
    assert start.end() == 128 + signal.SIGTERM
