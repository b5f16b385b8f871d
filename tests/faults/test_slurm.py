"""launch/slurm.sh on a stand-in of Slurm: one node, on which srun runs its command. No real Slurm has run it."""

import os
import signal
import sys
from pathlib import Path

import psutil
from helpers.jobs import ROOT, Job, prepare

STAND_INS = {"srun": 'exec env SLURM_STEP_NUM_TASKS=1 "$@"', "scontrol": "echo localhost"}


class SlurmJob(Job):
    """A job of sbatch on one node with two GPUs, as its script sees it."""

    def __init__(self, folder, name, *arguments):
        super().__init__(folder, name, "slurm", 2, *arguments)
        stand_ins = folder / "slurm"
        stand_ins.mkdir()
        for command, does in STAND_INS.items():
            (stand_ins / command).write_text(f"#!/bin/bash\n{does}\n")
            (stand_ins / command).chmod(0o755)
        path = f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment |= {"PATH": path, "VIRTUAL_ENV": sys.prefix, "SLURM_SUBMIT_DIR": str(ROOT)}
        self.environment |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost"}
        self.environment |= {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}

    def command(self):
        return ["bash", str(ROOT / "launch/slurm.sh"), *self.arguments]

    def torchrun(self) -> psutil.Process:
        """The process that Slurm signals."""
        [found] = [process for process in self.processes() if any("torchrun" in word for word in process.cmdline()[:2])]
        return found


def test_before_the_limit_of_time_a_job_saves_and_the_same_command_goes_on(tmp_path):
    job = SlurmJob(prepare(tmp_path), "job", "--max_steps", 400, "--checkpoint.every", 4000)
    process = job.start()
    try:
        job.until_step(3)
        job.torchrun().send_signal(signal.SIGUSR1)
        job.until_gone()
        assert process.wait(10) != 0
        saved = int((job.directory / "checkpoints/latest").read_text().strip().removeprefix("step-"))
        assert 3 <= saved == job.steps()[-1] < 400
        job.arguments += ["--max_steps", str(saved + 2)]
        assert job.start().wait(120) == 0, job.output()[-3000:]
        assert job.steps() == [*range(1, saved + 3)]
    finally:
        for left in job.processes():
            left.kill()
