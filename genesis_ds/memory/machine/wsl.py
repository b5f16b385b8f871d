"""WSL2, where Linux is a guest of Windows: it has a part of the RAM, pins a part of that, and sees Windows' drives.

Source: Microsoft's page "Advanced settings configuration in WSL" (memory is half of Windows' by default) and NVIDIA's
"CUDA on WSL User Guide" (pinned memory is limited there).
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from genesis_ds.config import RunConfig
from genesis_ds.memory.machine.hardware import GIB, format_bytes

PROC = Path("/proc")
WINDOWS_DRIVES = {"9p", "drvfs", "virtiofs"}
"""Types of file system by which WSL shows a drive of Windows."""
POWERSHELL = "/mnt/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe"
"""Where it is, though Windows' PATH may be kept from WSL."""
ASK_INSTALLED = "(Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory"
ANSWERS_WITHIN = 15
"""Seconds in which Windows says how much RAM it has."""
ENOUGH = 0.75
"""Of the RAM that is installed, the share from which nothing is advised: Windows needs the rest."""
LIFT = "write memory={size} under [wsl2] into %UserProfile%\\.wslconfig on Windows, then wsl.exe --shutdown"


@dataclass(frozen=True)
class Notice:
    """What somebody who trains under WSL should know, and do."""

    said: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.said}; {self.mend}" if self.mend else self.said


class Mount(NamedTuple):
    """A file system."""

    place: str
    kind: str


def is_wsl(proc: Path = PROC) -> bool:
    """Return whether this Linux is a guest of Windows."""
    version = proc / "version"
    return version.exists() and "microsoft" in version.read_text(encoding="utf-8", errors="replace").lower()


def notices(config: RunConfig, offloads: bool, proc: Path = PROC) -> list[Notice]:
    """Return what is to be known of this machine before a run; nothing where it is no WSL.

    offloads: whether the run pins memory of the host for what is not on its GPU.
    """
    found = (ram(proc), pinned(proc) if offloads else None, drives(files_of(config), proc))
    return [notice for notice in found if notice]


def files_of(config: RunConfig) -> list[str]:
    """Return where a run reads and writes: the project, the runs, the corpus and what is made of it."""
    data = [] if config.arithmetic.modulus else [config.data.corpus, config.data.token_sets]
    return [os.getcwd(), config.output_dir, *data]


def ram(proc: Path = PROC) -> Notice | None:
    """Say how much of Windows' RAM Linux has."""
    if not is_wsl(proc):
        return None
    given, installed = psutil.virtual_memory().total, installed_bytes()
    has = f"{format_bytes(given)} of RAM are given to WSL2"
    if installed is None:
        return Notice(
            f"{has}; Windows did not say how much it has, half of which is the default", LIFT.format(size="SIZE")
        )
    mend = LIFT.format(size=f"{installed * 7 // 8 // GIB}GB") if given < ENOUGH * installed else ""
    return Notice(f"{has}, of {format_bytes(installed)} that Windows has", mend)


def pinned(proc: Path = PROC) -> Notice | None:
    """Say what is known of pinned memory, which offloading takes."""
    if not is_wsl(proc):
        return None
    return Notice(
        "CUDA can pin only a part of WSL2's RAM, which NVIDIA does not state",
        'where an offloading run says "out of memory" though RAM is free, set pin_memory to false in its ds_config',
    )


def drives(paths: Sequence[str | Path], proc: Path = PROC) -> Notice | None:
    """Say which of the paths are on a drive of Windows."""
    if not is_wsl(proc):
        return None
    on = {str(path): mount for path in paths if (mount := _mount_of(path, proc)).kind in WINDOWS_DRIVES}
    if not on:
        return None
    where = ", ".join(dict.fromkeys(f"{mount.place} ({mount.kind})" for mount in on.values()))
    return Notice(
        f"{', '.join(on)}: on a drive of Windows, {where}, where small files are slow and locks may be missing",
        "move it below your home folder in Linux",
    )


def installed_bytes() -> int | None:
    """Ask Windows for the RAM of this machine; None where it does not answer."""
    powershell = shutil.which("powershell.exe") or POWERSHELL
    command = [powershell, "-NoProfile", "-NonInteractive", "-Command", ASK_INSTALLED]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWERS_WITHIN, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(answer) if answer.strip().isdigit() else None


def _mount_of(path: str | Path, proc: Path) -> Mount:
    """Return the file system that a path is on."""
    table = (proc / "mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    mounts = [Mount(line.split(" ")[1].replace("\\040", " "), line.split(" ")[2]) for line in table]
    real = os.path.realpath(path)
    above = [mount for mount in mounts if os.path.commonpath([mount.place, real]) == mount.place]
    return max(reversed(above), key=lambda mount: len(mount.place))  # of two in one place the later one is seen
