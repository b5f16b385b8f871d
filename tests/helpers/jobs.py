"""Training runs that are started as a user starts them, and may be killed, signalled and started again.

The runs are real: launch/train.py on a synthetic corpus, under python, deepspeed or torchrun, as a user starts it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]
TINY = {
    "--data.languages": "[]",
    "--model.n_layers": 2,
    "--model.dim": 32,
    "--model.n_heads": 2,
    "--model.intermediate_size": 64,
    "--batch.seq_len": 64,
    "--batch.global_batch_size": 8,
    "--batch.micro_batch_size": 4,
    "--evaluation.max_windows": 4,
    "--evaluation.max_verses": 32,
    "--evaluation.every": 0,
    "--samples.new_tokens": 4,
    "--log_every": 1,
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""A tiny model is faster on it."""
PATIENCE = 120
"""Seconds that anything may take on a busy machine."""

SLOW_SAVES = """
import os, time
fsync = os.fsync
def slow(file):
    if "optim_states" in os.readlink(f"/proc/self/fd/{file}"):
        time.sleep(SECONDS)
    fsync(file)
os.fsync = slow
"""


class Job:
    """A training command, which can be started again and again, and what it leaves in its folder."""

    def __init__(self, folder: Path, name: str, launcher: str, ranks: int, *arguments: object) -> None:
        """launcher: python, deepspeed or torchrun. The folder holds the corpus and the runs of one test."""
        self.folder, self.name, self.launcher, self.n_ranks = folder, name, launcher, ranks
        self.directory, self.log = folder / "runs" / name, folder / f"{name}.log"
        data = {"--data.corpus": folder / "corpus", "--data.token_sets": folder / "token_sets"}
        place = {"--output_dir": folder / "runs", "--name": name}
        words = [word for key, value in (TINY | data | place).items() for word in (key, value)]
        self.arguments = [str(word) for word in (*words, *arguments)]
        self.environment: dict[str, str] = {}

    def command(self) -> list[str]:
        """The command line; its port is a new one every time."""
        launchers = {
            "python": ["-u"],
            "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_gpus", self.n_ranks, "--master_port", free_port()],
            "torchrun": ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.n_ranks}"],
        }
        return [sys.executable, *map(str, launchers[self.launcher]), str(ROOT / "launch/train.py"), *self.arguments]

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        """Start the command, after these words, in a session of its own; its output is added to the log."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*before, *self.command()],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=default_signals,
            )

    def patch(self, source: str) -> None:
        """From now on every Python process of the job runs this before anything else."""
        site = self.folder / f"site-{self.name}"
        site.mkdir()
        (site / "sitecustomize.py").write_text(source)
        self.environment["PYTHONPATH"] = f"{site}:{ROOT}"

    def slow_saves(self, seconds: int) -> None:
        """From now on every rank takes so many seconds to write its optimizer's states."""
        self.patch(SLOW_SAVES.replace("SECONDS", str(seconds)))

    def is_saving(self) -> bool:
        """True while a checkpoint has not yet got its name."""
        return any((self.directory / "checkpoints").glob("step-*.tmp"))

    def output(self, since: int = 0) -> str:
        """What all starts have printed, from this byte of the log on."""
        return self.log.read_bytes()[since:].decode(errors="replace") if self.log.exists() else ""

    def log_size(self) -> int:
        """Bytes in the log."""
        return self.log.stat().st_size if self.log.exists() else 0

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for the job: launchers and ranks."""
        mine = {str(self.folder / "runs"), self.name}
        return [process for process in psutil.process_iter(["cmdline"]) if mine <= set(process.info["cmdline"] or ())]

    def ranks(self) -> dict[int, psutil.Process]:
        """Rank -> its process."""
        return {
            int(process.environ().get("RANK", 0)): process
            for process in self.processes()
            if not {"deepspeed.launcher.runner", "deepspeed.launcher.launch", "torch.distributed.run"}
            & set(process.info["cmdline"])
        }

    def launchers(self) -> list[psutil.Process]:
        """The launchers, outermost first."""
        ranks = self.ranks().values()
        return sorted((p for p in self.processes() if p not in ranks), key=psutil.Process.create_time)

    def steps(self) -> list[int]:
        """The steps that metrics.jsonl reports, in its order."""
        return [record["global_step"] for record in self.records()]

    def records(self) -> list[dict[str, object]]:
        """The whole lines of metrics.jsonl."""
        path = self.directory / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def losses(self) -> list[tuple[int, object]]:
        """The step and loss of every record, in its order."""
        return [(record["global_step"], record["train/loss"]) for record in self.records()]

    def until(self, condition: Callable[[], object], what: str, patience: float = PATIENCE, pause: float = 0.1) -> None:
        """Wait for the condition. Raises AssertionError, with the end of the log, where it does not come.

        pause: seconds between two looks, which take the processor from the job.
        """
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"{self.name}: {what} did not come; {self.output()[-3000:]}"
            time.sleep(pause)

    def until_step(self, n: int) -> None:
        """Wait until the run has reported step n. Raises AssertionError where its processes end before."""
        self.until(lambda: self.has_reported(n) or not self.processes(), f"step {n}")
        assert self.has_reported(n), f"{self.name} has ended before step {n}; {self.output()[-3000:]}"

    def has_reported(self, n: int) -> bool:
        """True when a record of step n or a later one is there."""
        return any(step >= n for step in self.steps()[-1:])

    def until_gone(self, patience: float = PATIENCE) -> float:
        """Wait until no process of the job is left; the seconds that took."""
        started = time.monotonic()
        self.until(lambda: not self.processes(), f"the end of {self.processes()}", patience)
        return time.monotonic() - started


def prepare(folder: Path) -> Path:
    """Put the corpus that jobs train on into the folder."""
    save_corpus(synthetic_corpus(), folder / "corpus")
    return folder


def run_command(command: Sequence[str | Path], timeout: float, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it prints on both streams is its stdout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path} | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def default_signals() -> None:
    """In a child, before it starts: the tests themselves may run under nohup or in the background of a script."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
