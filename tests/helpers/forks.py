"""Training processes that are forked from one which has imported torch, DeepSpeed and the trainer.

These imports cost a process more than a tiny run does. What a fork cannot show (launchers, process groups, signals,
kills) is tested with jobs.Job and jobs.run_command, which start a command as a user does.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from genesis_ds.engine.distributed import accelerator
from helpers.jobs import ONE_THREAD, ROOT, Job, free_port

PROCESSES = multiprocessing.get_context("forkserver" if accelerator() == "cpu" else "spawn")  # CUDA outlives no fork
PROCESSES.set_forkserver_preload(
    [
        "genesis_ds.training.session",
        "deepspeed",
        "torch._dynamo.config",  # a plan of the memory imports it
        "torch.utils.tensorboard",
    ]
)
OURS = ONE_THREAD | {"PYTHONPATH": str(ROOT)}


def run_forked(
    script: str | Path, arguments: Sequence[object], *, ranks: int = 1, cwd: Path = ROOT, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `python script arguments` once for each rank, with the environment that a launcher gives it, to the end.

    stdout is what all of them print, returncode the first that is not 0. Raises TimeoutExpired.
    """
    command = [str(ROOT / script), *map(str, arguments)]
    launched = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.NamedTemporaryFile() as output:
        processes = []
        for rank in map(str, range(ranks)):
            environment = os.environ | OURS | (launched | {"RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {})
            process = PROCESSES.Process(target=_run, args=(command, cwd, environment, output.name))
            with patch.dict(os.environ, OURS | {"DS_ACCELERATOR": accelerator()}):  # of what the first start imports
                process.start()
            processes.append(process)
        deadline = time.monotonic() + timeout
        for process in processes:
            process.join(deadline - time.monotonic())
        late = [process for process in processes if process.exitcode is None]
        for process in late:
            process.kill()
        printed = Path(output.name).read_text(encoding="utf-8", errors="replace")
    if late:
        raise subprocess.TimeoutExpired(command, timeout, printed)
    exit_code = next((process.exitcode for process in processes if process.exitcode), 0)
    return subprocess.CompletedProcess(command, exit_code, printed)


def train_whole(job: Job) -> str:
    """Train the job to its end, which nothing happens to, in forked ranks. Returns what they print."""
    done = run_forked("launch/train.py", job.arguments, ranks=job.n_ranks)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def _run(command: list[str], cwd: Path, environment: Mapping[str, str], output: str) -> None:
    """Be `python command` in this directory and environment, with both streams at the end of the output."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
