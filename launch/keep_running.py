"""Keep a run going unattended: start its command again when it has crashed.

    python launch/keep_running.py --run runs/deep_50m -- deepspeed launch/train.py --config launch/runs/deep_50m.yaml

It waits 30 seconds before the first restart and twice as long before each next one, an hour at most, and gives up after
10 restarts between which the run in --run has saved no checkpoint. It does not restart a run that has trained (exit
code 0), a user's mistake (2) or a numerical fault (3).

Asked to stop (SIGTERM, SIGINT, SIGUSR1, SIGHUP), it passes the signal to the training processes alone, since a
launcher would kill them in the middle of a long save, and waits for as long as they take; asked again, it passes that
on too, and they stop at once. No process of this host is left when it ends. Its exit code is that of the host's first
rank (they are listed in genesis_ds/training/session.py), also under a launcher that does not pass it on. On several
hosts, start one on each (deepspeed --no_ssh, torchrun): what pdsh starts on another host is out of its reach.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from genesis_ds.disk import warn
from genesis_ds.errors import UserError, of_path
from genesis_ds.supervision.launchers import EXIT_CODE_FILE, is_launcher
from genesis_ds.user_files import expanded

FINAL = (0, 2, 3)
REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
LONGEST_PAUSE = 3600.0
LAST_SAVE = 1800.0
"""Seconds that ranks whose launcher is gone may take to save and end; they do not wait longer for each other either."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a mistake that argparse has found as a UserError."""
        raise UserError(message)


class Start:
    """One start of the command, whose processes are known by the exit code file that their environment names."""

    def __init__(self, command: list[str]) -> None:
        self.exit_code = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end; it has no name that could be left behind)
        self.mark = f"/proc/{os.getpid()}/fd/{self.exit_code.fileno()}"
        try:
            marked = os.environ | {EXIT_CODE_FILE: self.mark}
            self.process = subprocess.Popen(command, env=marked, start_new_session=True)
        except OSError as error:
            raise UserError(f"command: {of_path(error, command[0])}; give after -- what to start") from error

    def processes(self) -> list[psutil.Process]:
        """Return the processes that still run, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(EXIT_CODE_FILE) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def pass_on(self, number: int) -> None:
        """Send a signal to the training processes, or to the launchers while there are none."""
        launchers: list[psutil.Process] = []
        parents: dict[psutil.Process, psutil.Process | None] = {}  # of the others
        for process in self.processes():
            with suppress(psutil.Error):  # it has ended since
                if is_launcher(process.cmdline()):
                    launchers.append(process)
                else:
                    parents[process] = process.parent()
        training = [process for process, parent in parents.items() if parent not in parents]
        for process in training or launchers:
            with suppress(psutil.Error):
                process.send_signal(number)

    def end(self) -> int:
        """Wait for all processes, kill those that do not end, and return the exit code."""
        exit_code = self.process.wait()
        left = self.processes()
        for process in psutil.wait_procs(left, LAST_SAVE)[1]:
            with suppress(psutil.Error):
                process.kill()
        self.exit_code.seek(0)
        of_rank = self.exit_code.read()
        self.exit_code.close()
        if of_rank:
            return int(of_rank)
        if exit_code == 0 and left:  # deepspeed's, when its inner launcher was killed
            return 1
        return exit_code if exit_code >= 0 else 128 - exit_code


class Keeper:
    """Starts a command until it has done its work."""

    def __init__(self, run: Path | None, restarts: int, backoff: float) -> None:
        self.run, self.restarts, self.backoff = run, restarts, backoff
        self.is_asked_to_stop = False
        self.start: Start | None = None
        for number in REQUESTS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_request)

    def on_request(self, number: int, frame: object) -> None:
        """Pass a signal to this process on to the command."""
        self.is_asked_to_stop = True
        if self.start:
            self.start.pass_on(number)

    def keep(self, command: list[str]) -> int:
        """Start the command as often as it takes; return its last exit code."""
        failures, exit_code = 0, 0
        while not self.is_asked_to_stop:
            before, began = self.newest(), time.monotonic()
            self.start = Start(command)
            if self.is_asked_to_stop:  # while it started
                self.start.pass_on(signal.SIGTERM)
            exit_code = self.start.end()
            failures = failures + 1 if self.newest() == before else 1
            ended = f"keep_running: ended with {exit_code} after {time.monotonic() - began:.0f} s"
            if self.is_asked_to_stop or exit_code in FINAL:
                break
            if failures > self.restarts:
                print(f"{ended}; that was restart {self.restarts} without a new checkpoint: given up", file=sys.stderr)
                break
            pause = min(LONGEST_PAUSE, self.backoff * 2 ** min(failures - 1, 32))
            print(f"{ended}; restart {failures} of {self.restarts} in {pause:.0f} s", file=sys.stderr, flush=True)
            self.pause(pause)
        return exit_code

    def newest(self) -> str:
        """Return the name of the run's newest checkpoint; an empty text where there is none."""
        latest = self.run / "checkpoints/latest" if self.run else None
        return latest.read_text(encoding="utf-8") if latest and latest.exists() else ""

    def pause(self, seconds: float) -> None:
        """Sleep for so many seconds, or until asked to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.is_asked_to_stop:
            time.sleep(0.2)


def main() -> int:
    """Keep the command of the command line running; return the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="the run's directory; a new checkpoint there starts the count anew")
    parser.add_argument("--restarts", type=int, default=10, help="give up after so many (default 10)")
    parser.add_argument("--backoff", type=float, default=30, help="seconds before the first of them (default 30)")
    parser.add_argument("command", nargs="+", help="after --: what to start")
    try:
        options = parser.parse_args()
        check(options)
        return Keeper(options.run, options.restarts, options.backoff).keep(options.command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(options: argparse.Namespace) -> None:
    """Raise UserError for an option that is not allowed; warn where --run names nothing yet."""
    if options.restarts < 0:
        raise UserError(f"--restarts: {options.restarts} is not allowed; give 0 or more")
    if not 0 <= options.backoff <= LONGEST_PAUSE:
        raise UserError(f"--backoff: {options.backoff} is not allowed; give seconds, from 0 to {LONGEST_PAUSE:.0f}")
    if options.run is None:
        return
    options.run = Path(expanded(options.run, "--run"))
    if options.run.exists() and not options.run.is_dir():
        raise UserError(f"--run: {options.run} is no directory; give the run's")
    if not options.run.exists():
        warn(f"--run: {options.run} is not there yet; until the command makes it, no restart counts as progress")


if __name__ == "__main__":
    sys.exit(main())
