"""What ends a run before its last step: a request to stop, a launcher that is gone, a rank that is gone or has crashed.

SIGTERM, SIGINT, SIGUSR1 (Slurm's warning) and SIGHUP ask a run to stop, as does the end of its launcher, which counts
as a SIGHUP. From the first step on a rank only takes note; the ranks agree after the step, save, and exit with STOPPED.
Before, while hooks measure the untrained model too, and when it is asked again, a process ends at once with 128 + the
signal's number: a checkpoint gets its name when it is whole, so that nothing half-written is left. One request arrives
several times, from the terminal and from the launcher: whatever comes within SAME_REQUEST seconds is one. A signal that
the process was started to ignore (nohup) stays ignored.

A thread of its own takes note, since Python runs the handlers of a process between two of its instructions, and the
main thread may wait minutes for other ranks or for a compiler.
"""

import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from genesis_ds.checkpoint.save.directory import LATEST
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.supervision import launchers
from genesis_ds.supervision.heartbeat import Heartbeat
from genesis_ds.supervision.output import note

STOPPED = 75
"""Exit code of a run that was asked to stop and has saved: EX_TEMPFAIL of sysexits.h, try again."""
CRASHED = 1
REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
SAME_REQUEST = 2.0
GONE_FOR = 3.0
"""Seconds after which a rank that has ended is missed. Ranks that end together do so within less."""


class Stopped(Exception):
    """The run was asked to stop, and has saved. All ranks raise it after the same step."""

    def __init__(self, request: int, global_step: int) -> None:
        super().__init__(f"by {describe(request)} after step {global_step}")


class StopWatcher:
    """Takes note, for one rank, of requests to stop and of processes that it cannot do without."""

    def __init__(self, ranks: Ranks) -> None:
        """Begin to watch. To be called by the main thread, once in a process."""
        self.ranks, self.is_first_here, self._me = ranks, ranks.local_rank == 0, f"rank {ranks.rank}"
        self._heartbeat: Heartbeat | None = None
        self.request = 0
        """The number of the signal that asks this rank to stop; 0: none."""
        self.checkpoints: Path | None = None
        """Where the run's are, once that is known."""
        self.saves_first = False
        """From the first step on: a first request is noted for the loop. Before, it ends the process."""
        self._exit_code: int | None = None
        self._asked_at = self._missed_at = math.inf
        self._launchers = launchers.launchers_above()
        self._held: list[subprocess.Popen[bytes]] = []
        self._peers: dict[int, psutil.Process] = {}
        self._signals, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in REQUESTS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)
        if launchers.is_orphan(self._launchers):
            self._ask(signal.SIGHUP)
        threading.Thread(target=self._watch, daemon=True, name="signals").start()

    def hosts(self) -> list[str]:
        """Return the name of each rank's host, where the launcher knows it. Raises UserError for a missing hostfile."""
        launchers.require_hostfile(self._launchers)
        return launchers.hosts_of_ranks(self._launchers)

    def meet_peers(self) -> None:
        """Get to know the other ranks, of this host and of others. Every rank calls it."""
        me, host = psutil.Process(), socket.gethostname()
        for rank, its_host, pid, created in distributed.gather((self.ranks.rank, host, me.pid, me.create_time())):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if rank != self.ranks.rank and its_host == host and process.create_time() == created:
                    self._peers[rank] = process
        if self.ranks.nodes > 1:
            self._me = f"rank {self.ranks.rank} ({host})"
            self._heartbeat = Heartbeat(self.ranks)

    def save_first(self) -> None:
        """Have a first request noted for the loop, which saves and stops, from now on."""
        self.saves_first = True

    def leave(self, exit_code: int) -> int:
        """End this rank. Return the exit code where all ranks end with it."""
        self._exit_code = exit_code
        if exit_code in (0, STOPPED):
            distributed.leave()
            self._write_exit_code(exit_code)
            return exit_code
        self._end(exit_code)  # other ranks may be in the middle of something, and leaving properly waits for them

    def way_on(self) -> str:
        """Say how the run goes on after the end of this process."""
        if not self.checkpoints or not (latest := self.checkpoints / LATEST).exists():
            return "no checkpoint has been saved"
        return f"the same command goes on from {self.checkpoints / latest.read_text(encoding='utf-8').strip()}"

    def crash(self, error: Exception) -> NoReturn:
        """Say what has ended this rank, and end it."""
        self._exit_code = CRASHED
        gone = self._wait_for_gone() if isinstance(error, RuntimeError) else []
        reason = self._are_gone(gone) if gone else self._heartbeat and self._heartbeat.why(error)
        if not reason:
            traceback.print_exception(error)
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            _record(error)
        self._fail(reason)

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)  # for suspend_launcher.py, which inherits it
        while True:
            readable, _, _ = select.select([self._signals], [], [], 1.0)
            for number in os.read(self._signals, 64) if readable else ():
                if number in REQUESTS:
                    self._ask(signal.Signals(number))
            if not self.request and not all(map(launchers.is_alive, self._launchers)):
                self._ask(signal.SIGHUP)
            self._miss_peers()
            self._miss_hosts()

    def _ask(self, number: signal.Signals) -> None:
        is_ending = self._exit_code is not None
        if not self.saves_first and not is_ending:
            self._say(f"stopped at once by {describe(number)}, between two steps; {self.way_on()}")
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            self._end(128 + number)
        if not self.request:
            self.request, self._asked_at = number, time.monotonic()
            if not is_ending:
                self._held = [launchers.keep_from_killing(launcher) for launcher in self._launchers[:1]]
                self._say(f"{describe(number)}: this step is finished and saved; asked again, it stops at once")
        elif time.monotonic() - self._asked_at > SAME_REQUEST:
            if not is_ending:
                self._say(f"stopped at once by a second request, {describe(number)}; {self.way_on()}")
            self._end(128 + number if self._exit_code is None else self._exit_code)

    def _miss_peers(self) -> None:
        gone = self._gone()
        self._missed_at = min(self._missed_at, time.monotonic()) if gone else math.inf
        if time.monotonic() - self._missed_at > GONE_FOR and self._exit_code is None:
            self._fail(self._are_gone(gone))

    def _miss_hosts(self) -> None:
        if self._heartbeat and self._exit_code is None and (silent := self._heartbeat.silence_of()):
            self._fail(silent)

    def _gone(self) -> list[int]:
        return [rank for rank, process in self._peers.items() if not launchers.is_alive(process)]

    def _wait_for_gone(self) -> list[int]:
        """Return the ranks of this host that are gone: a connection breaks before the process has ended."""
        deadline = time.monotonic() + (GONE_FOR if self._peers else 0)
        while not (gone := self._gone()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return gone

    def _are_gone(self, ranks: list[int]) -> str:
        return " and ".join(f"rank {rank} (process {self._peers[rank].pid}) is gone" for rank in ranks)

    def _fail(self, reason: str) -> NoReturn:
        self._say(f"{reason}; {self.way_on()}", "error")
        _record(RuntimeError(reason))
        if self._heartbeat:
            self._heartbeat.announce(reason)
        self._end(128 + self.request if self.request else CRASHED)

    def _say(self, line: str, kind: str = "signal") -> None:
        print(f"{kind}: {self._me}: {line}", file=sys.stderr, flush=True)

    def _write_exit_code(self, exit_code: int) -> None:
        note(f"exit code {exit_code}\n".encode())
        if self.is_first_here and (path := os.environ.get(launchers.EXIT_CODE_FILE)):
            with suppress(OSError), open(path, "w", encoding="utf-8") as file:  # keep_running may be gone
                file.write(str(exit_code))

    def _end(self, exit_code: int) -> NoReturn:
        """End the process now, without waiting for threads or for other ranks."""
        self._write_exit_code(exit_code)
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        os._exit(exit_code)


def _record(error: Exception) -> None:
    """Write into torchrun's error file why this rank ends, unless that is there; its summary says the first."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path and not os.path.exists(path):
        try:
            raise error from None
        except Exception as raised:  # its handler writes the traceback of what is being handled
            with suppress(OSError):
                get_error_handler().record_exception(raised)


def describe(number: int) -> str:
    """Return the name of a request, as it is told to people."""
    name = signal.Signals(number).name
    return f"{name} (the launcher or the terminal is gone)" if number == signal.SIGHUP else name
