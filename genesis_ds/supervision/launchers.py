"""The launchers that stand above a training process, and what a process must know of them.

`deepspeed` starts deepspeed.launcher.launch, and that the ranks; `torchrun` starts the ranks itself. Told to stop, a
launcher waits 30 seconds for a rank and then kills it, though it may be saving. Killed, it leaves its ranks behind.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from genesis_ds.errors import UserError

COMMANDS = {"deepspeed", "deepspeed.pt", "ds", "torchrun"}
MODULES = {"deepspeed.launcher.launch", "deepspeed.launcher.runner", "torch.distributed.run"}
MARKS = ("CROSS_SIZE", "TORCHELASTIC_RUN_ID")
"""Environment variables that deepspeed.launcher.launch and torchrun set for their ranks."""

EXIT_CODE_FILE = "GENESIS_DS_EXIT_CODE_FILE"
"""Environment variable that launch/keep_running.py sets: where the first rank of a host writes its exit code."""


def is_launcher(command: Sequence[str]) -> bool:
    """Return whether a command line is a launcher's: `python [-u] -m MODULE ...` or `python /path/COMMAND ...`."""
    words = list(command[:4])
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return bool(MODULES & set(module) or COMMANDS & {Path(word).name for word in words[:2]})


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process has not ended, also where nobody has asked for its exit code yet."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def launchers_above() -> list[psutil.Process]:
    """Return the launchers that this process was started by, nearest first."""
    found: list[psutil.Process] = []
    for process in psutil.Process().parents()[:2]:
        try:
            if not is_launcher(process.cmdline()):
                break
        except psutil.Error:
            break
        found.append(process)
    return found


def is_orphan(above: Sequence[psutil.Process]) -> bool:
    """Return whether a launcher has started this process and died before launchers_above() could find it."""
    if not above:
        return any(mark in os.environ for mark in MARKS)
    furthest = above[-1]
    try:
        if "deepspeed.launcher.launch" not in furthest.cmdline()[:4]:
            return False
        # It has a parent that waits for it (the deepspeed command, or the shell of another host), unless that is gone.
        parent = furthest.parent()
        return parent is None or parent.pid == 1 or parent.name() == "systemd"
    except psutil.NoSuchProcess:  # it has died since
        return True


def hosts_of_ranks(above: Sequence[psutil.Process]) -> list[str]:
    """Return the name of each rank's host, by rank, where deepspeed has started them; none where that is not known."""
    for command in _command_lines(above):
        for word in command:
            if word.startswith("--world_info="):
                slots = json.loads(base64.urlsafe_b64decode(word.partition("=")[2]))
                return [host for host, ranks in slots.items() for _ in ranks]
    return []


def require_hostfile(above: Sequence[psutil.Process]) -> None:
    """Raise UserError where `deepspeed` was given a hostfile that is not there: it trains on this host alone then."""
    for process, command in zip(above, _command_lines(above), strict=True):
        for word, following in zip(command, [*command[1:], ""], strict=True):
            name, _, value = word.partition("=")
            if word.endswith(".py") and not word.endswith("runner.py"):
                break  # what follows is the script's
            if name in ("--hostfile", "-H"):
                given = value or following
                if not os.path.isfile(os.path.join(process.cwd(), given)):
                    raise UserError(
                        f"--hostfile: {given}: no such file, and this host is not to train alone; name yours"
                    )


def _command_lines(above: Sequence[psutil.Process]) -> list[list[str]]:
    lines: list[list[str]] = []
    for process in above:
        try:
            lines.append(process.cmdline())
        except psutil.Error:
            lines.append([])
    return lines


def keep_from_killing(launcher: psutil.Process) -> "subprocess.Popen[bytes]":
    """Suspend the launcher if this process lives for some seconds more, until it has ended, however it ends.

    The returned process does it, and sees by its open standard input that this one lives.
    """
    script = Path(__file__).with_name("suspend_launcher.py")
    return subprocess.Popen(
        [sys.executable, "-S", str(script), str(launcher.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
