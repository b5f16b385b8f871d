"""Commands that run within limits of time and memory, and the JSON file that says what each of them gave."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
SAMPLED_EVERY = 0.1
"""Seconds between two looks at a command's memory."""
FAILURE_SHOWN = 4000
"""Characters of a failed command's output that are printed; the JSON has its last line of an error."""
Row = dict[str, Any]
ERROR = re.compile(r"(\[rank\d+\]: )?(error|[\w.]*(Error|Exception)): ")
"""How the line begins in which a command says what is wrong."""


@dataclass(frozen=True)
class Command:
    """A command as a user types it in the repository's root, and what it may take."""

    part: str
    name: str
    words: list[str]
    """`python` is the interpreter that runs this."""
    expects: float
    """Seconds it is expected to take; it is left out where fewer are left."""
    limit: float
    """Seconds after which it is killed."""
    result: Path | None = None
    """The JSON file that it writes."""
    host_limit: int | None = None
    """Bytes of host memory above which it is killed: the machine that is stood for has no more."""
    optional: str = ""
    """Where it fails with this in its output, the machine lacks what it needs, and it is left out."""


class Record:
    """The results of a protocol in one JSON file, which is written again after every command."""

    def __init__(self, path: Path, head: dict[str, Any], minutes: float, environment: dict[str, str]) -> None:
        """environment: variables that the commands have besides this process's own."""
        self.path, self.started = path, time.monotonic()
        self.deadline = self.started + 60 * minutes
        self.content: dict[str, Any] = {**head, "minutes": minutes, "seconds": 0.0, "parts": {}}
        self.content |= {"left_out": [], "problems": []}
        path_of_search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.environment = os.environ | {"PATH": path_of_search, "PYTHONUNBUFFERED": "1"} | environment
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.beside: list[subprocess.Popen[str]] = []
        self.write()

    @property
    def left(self) -> float:
        """Seconds until the end of the protocol."""
        return self.deadline - time.monotonic()

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Start a command beside those that are measured; close() ends it, where it has not ended."""
        beside = subprocess.Popen(
            typed(words), cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.beside.append(beside)
        return beside

    def close(self) -> None:
        """Write the file for the last time."""
        for process in self.beside:
            process.kill()
        self.write()

    def run(self, command: Command) -> Row | None:
        """Run the command and write down what it gave; None where it is left out. The row may be added to."""
        if self.left < command.expects:
            left = f"{max(0, self.left):.0f} s were left, and it is expected to take {command.expects:.0f}"
            self.leave_out(command, left)
            return None
        try:
            row, output = self.execute(command)
        except KeyboardInterrupt:
            self.leave_out(command, "interrupted")
            raise
        if row["exit_code"] and command.optional and command.optional in output:
            self.leave_out(command, row["ended"][-1])
            return None
        self.content["parts"].setdefault(command.part, []).append(row)
        self.write()
        told = "ok" if row["ok"] else f"FAILED: {row['ended'][-1]}"
        print(f"{command.part}/{command.name} {told} ({row['seconds']:.0f} s)", flush=True)
        if not row["ok"]:
            print(output[-FAILURE_SHOWN:], flush=True)
        return row

    def execute(self, command: Command) -> tuple[Row, str]:
        """The command's row, and the end of its output."""
        if command.result:
            command.result.unlink(missing_ok=True)
        limit, started = min(command.limit, self.left), time.monotonic()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                typed(command.words),
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            peak, killed_for = watch(process, limit, command.host_limit)
            log.seek(0)
            output = log.read().decode(errors="replace")[-20_000:]
        row = {
            "name": command.name,
            "command": shlex.join(command.words),
            "ok": process.returncode == 0,
            "exit_code": process.returncode,
            "killed_for": killed_for,
            "seconds": round(time.monotonic() - started, 1),
            "limit_seconds": round(limit, 1),
            "peak_host_bytes": peak,
        }
        if killed_for:
            most = f"{limit:.0f} s" if killed_for == "time" else f"{(command.host_limit or 0) / 2**30:.1f} GiB"
            row["ended"] = [f"killed: it took more {killed_for} than {most}"]
        elif not row["ok"]:
            row["ended"] = last_lines(output)
        elif command.result:
            row |= json.loads(command.result.read_text())
        return row, output

    def leave_out(self, command: Command, reason: str) -> None:
        """Write down that a command was not run, or could not be."""
        out = {"part": command.part, "name": command.name, "reason": reason, "command": shlex.join(command.words)}
        self.content["left_out"].append(out)
        self.write()
        print(f"{command.part}/{command.name} left out: {reason}", flush=True)

    def write(self) -> None:
        """The file is whole at every instant."""
        self.content["seconds"] = round(time.monotonic() - self.started, 1)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(temporary, self.path)


def typed(words: list[str]) -> list[str]:
    """The words as they are run: `python` is this interpreter."""
    return [sys.executable if word == "python" else word for word in words]


def watch(process: subprocess.Popen[bytes], limit: float, host_limit: int | None) -> tuple[int, str | None]:
    """Wait for the process, and kill it and all it has started at a limit.

    Returns the most host memory that they held at once, and which limit was passed: time, host memory, or None.
    """
    deadline, peak, killed_for = time.monotonic() + limit, 0, None
    try:
        while process.poll() is None and killed_for is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLED_EVERY)
            peak = max(peak, held_bytes(family(process.pid)))
            if time.monotonic() > deadline:
                killed_for = "time"
            elif host_limit and peak > host_limit:
                killed_for = "host memory"
    finally:  # also where this program is interrupted
        kill(process)
    return peak, killed_for


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, what descends from it, sessions of their own included, and what is left of its group."""
    for relative in family(process.pid):
        with suppress(psutil.Error):
            relative.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it, as long as it lives."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.Error:
        return []


def held_bytes(processes: Sequence[psutil.Process]) -> int:
    """What they hold of host memory, files not counted: all that the largest holds, and of the others their share.

    A page that several hold, as forked workers of a compiler do, is shared between them (proc(5), Pss). Of the largest
    no shares are asked for: that takes a second where it holds tens of GiB.
    """
    resident = {process.pid: _bytes(process.pid, "status", "Rss") for process in processes}
    largest = max(resident, key=lambda pid: resident[pid], default=0)
    shares = (_bytes(pid, "smaps_rollup", "Pss_") for pid in resident if pid != largest)
    return resident.get(largest, 0) + sum(shares)


def _bytes(pid: int, file: str, prefix: str) -> int:
    """Anonymous pages and shared ones, which pinned memory is, as a file of /proc has them."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines if line.startswith(prefix))
    return sum(int(fields[prefix + of].split()[0]) * 1024 for of in ("Anon", "Shmem") if prefix + of in fields)


def last_lines(output: str) -> list[str]:
    """The end of an output that tells why a command has failed."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return [line[:500] for line in (errors[-1:] or lines[-3:] or ["no output"])]
