"""A candidate measured by the real engine: a process of `genesis-ds bench` each, kept in a file for the next start."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.disk import write_text
from genesis_ds.errors import shown
from genesis_ds.stored import WRITTEN_BY, program, read_stored
from genesis_ds.user_files import dump_yaml

FORMAT = "genesis_ds tuning 1"
PREFIX = f'{{\n "format": "{FORMAT}"'.encode()
"""The first bytes of a file of results, by which one is known that may be written to."""
OUT_OF_MEMORY = ("OutOfMemoryError", "out of memory", "can't allocate memory", "does not fit")
"""What the output of a process says that had too little."""
MISTAKE = 2
"""Exit code of a command for the user's mistake, such as a run that does not fit."""
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes of a process that the kernel has ended, as it does where memory runs out."""

TO_END = 15
"""Seconds that a process has to end once it is asked to."""


@dataclass(frozen=True)
class Trial:
    """What came of a candidate."""

    tokens_per_second: float | None
    """In its fastest step; on one thread of a CPU by the time that it works, as others may work there too. None: it did
    not train; why is in `problem`."""
    gpu_bytes: int = 0
    """The most that all programs held of the card."""
    host_bytes: int = 0
    """The most that the process held of the host."""
    problem: str = ""


@dataclass(frozen=True)
class Stored:
    """The file of results."""

    format: str
    written_by: str
    trials: dict[str, Trial]
    """By the hash of all that a trial depends on."""


class Bench:
    """Runs `genesis-ds bench` in processes of its own, and remembers what came of each, also of an earlier start."""

    def __init__(self, path: Path, *, ranks: int, steps: int, machine: str) -> None:
        """path: the file of results, which may exist. machine: what it is called; another's results do not count."""
        self.path, self.ranks, self.steps, self.machine = path, ranks, steps, machine
        remedy = "give another --output, or remove it to measure anew"
        self.trials = read_stored(path, Stored, remedy, FORMAT).trials if path.exists() else {}

    def measure(
        self, values: dict[str, Any], ds_config: dict[str, Any], *, seconds: float, threads: int = 0, turn: int = 0
    ) -> Trial | None:
        """Return what comes of a run, the values of its YAML with a ds_config's; None where seconds are too few.

        threads: of each rank; 0: as the environment has it. turn: a number that is another for each time that the same
        is measured.
        """
        key = self._key(values, ds_config, threads, turn)
        if (known := self.trials.get(key)) or seconds <= 0:
            return known
        if (trial := self._run(values, ds_config, threads, seconds)) is None:
            return None
        self.trials[key] = trial
        stored = {"format": FORMAT, WRITTEN_BY: program()}
        trials = {key: dataclasses.asdict(trial) for key, trial in self.trials.items()}
        write_text(self.path, json.dumps(stored | {"trials": trials}, indent=1) + "\n")
        return trial

    def _key(self, values: dict[str, Any], ds_config: dict[str, Any], threads: int, turn: int) -> str:
        of_ranks = str(threads or os.environ.get("OMP_NUM_THREADS", ""))
        of = [values, ds_config, of_ranks, self.ranks, self.steps, self.machine, program(), turn]
        return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()

    def _run(self, values: dict[str, Any], ds_config: dict[str, Any], threads: int, seconds: float) -> Trial | None:
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with tempfile.TemporaryDirectory() as folder:
            run, deepspeed, result = (Path(folder, name) for name in ("run.yaml", "ds_config.json", "result.json"))
            run.write_text(dump_yaml(values), encoding="utf-8")
            deepspeed.write_text(json.dumps(ds_config), encoding="utf-8")
            words = ["bench", "--config", str(run), "--ds_config", str(deepspeed), "--json", str(result)]
            words += ["--warm_up", "2", "--steps", str(self.steps)]
            exit_code, output = _finish([*_launcher(self.ranks), "genesis_ds", *words], seconds, environment)
            if exit_code is None:
                return None
            if exit_code == 0:
                return _trial(json.loads(result.read_text(encoding="utf-8")))
        return Trial(None, problem=_problem(exit_code, output))


def _launcher(ranks: int) -> list[str]:
    alone = [sys.executable, "-m"]
    return [*alone, "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else alone


def _finish(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a command for so many seconds at most; return its exit code, None where they were too few, and its output.

    environment: what it has besides this one's.
    """
    variables = os.environ | (environment or {})
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=variables
        )
        exit_code: int | None = None
        try:
            exit_code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:  # an interrupted search leaves nothing running
            if exit_code is None:
                _end(process)
        output.seek(0)
        return exit_code, output.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started: a launcher ends its ranks where it is asked to, not where it is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(TO_END)
            return


def _trial(result: dict[str, Any]) -> Trial:
    phases = result["phases"].values()
    return Trial(
        tokens_per_second=result["tokens_per_step"] / (result["step_cpu_seconds"] or result["step_seconds"]["min"]),
        gpu_bytes=max(phase["gpu_used"] for phase in phases),
        host_bytes=max(phase["host"] for phase in phases),
    )


def _problem(exit_code: int, output: str) -> str:
    """Return in a few words why a process ended so."""
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "it said nothing")
    if exit_code in KILLED:
        return "out of memory: the system ended it"
    if any(sign in output for sign in OUT_OF_MEMORY):
        return "does not fit" if exit_code == MISTAKE else "out of memory"
    return shown(last.removeprefix("error: "))
