"""WSL2 by planted files of /proc and a powershell.exe of our own: no Windows was at hand."""

import dataclasses

import psutil
import pytest

from genesis_ds.config.parse import run_of
from genesis_ds.memory.machine import wsl
from genesis_ds.memory.machine.hardware import here

GIB = 2**30
VERSION = "Linux version 6.6.87.2-microsoft-standard-WSL2 (root@439a258ad544) #1 SMP PREEMPT_DYNAMIC\n"
MOUNTS = """\
none /mnt/wsl tmpfs rw,relatime 0 0
/dev/sdc / ext4 rw,relatime,discard,errors=remount-ro,data=ordered 0 0
C:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\;uid=1000;gid=1000;symlinkroot=/mnt/,access=client,trans=fd 0 0
D:\\134 /mnt/my\\040disk virtiofs rw,noatime 0 0
"""


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "version").write_text(VERSION)
    (tmp_path / "mounts").write_text(MOUNTS)
    return tmp_path


@pytest.fixture
def windows(tmp_path, monkeypatch):
    """Windows, as its PowerShell answers."""

    def answers(text):
        (tmp_path / "powershell.exe").write_text(f"#!/bin/sh\nprintf '{text}'\n")
        (tmp_path / "powershell.exe").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return answers


def test_on_linux_alone_nothing_is_said(tmp_path):
    (tmp_path / "version").write_text("Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org)\n")
    assert not wsl.is_wsl(tmp_path)
    assert wsl.notices(run_of({}), offloads=True, proc=tmp_path) == []


def test_half_of_windows_ram_is_said_with_what_lifts_it(proc, windows):
    given = psutil.virtual_memory().total
    windows(f"{2 * given}\\r\\n")
    notice = wsl.ram(proc)
    assert f"of {2 * given / GIB:.2f} GiB that Windows has" in notice.said
    assert f"memory={2 * given * 7 // 8 // GIB}GB under [wsl2]" in notice.mend
    assert "wsl.exe --shutdown" in notice.mend


def test_where_windows_gives_enough_nothing_is_to_do(proc, windows):
    windows(f"{int(psutil.virtual_memory().total * 1.2)}\\r\\n")
    assert wsl.ram(proc).mend == ""


@pytest.mark.parametrize("answer", ["", "Access denied", "exit"])
def test_where_windows_does_not_answer_what_is_seen_is_said(proc, windows, answer):
    windows(answer)
    notice = wsl.ram(proc)
    assert "Windows did not say how much it has" in notice.said
    assert ".wslconfig" in notice.mend


def test_files_on_a_drive_of_windows_are_named_with_the_drive(proc):
    notice = wsl.drives(["/mnt/c/Users/me/project", "/home/me/runs", "/mnt/my disk/corpora", "/mnt/cd"], proc)
    assert notice.said.startswith(
        "/mnt/c/Users/me/project, /mnt/my disk/corpora: on a drive of Windows, /mnt/c (9p), /mnt/my disk (virtiofs)"
    )
    assert "home folder in Linux" in notice.mend


def test_files_of_linux_are_fine(proc):
    assert wsl.drives(["/home/me/project", "runs"], proc) is None


def test_a_run_is_told_of_pinned_memory_where_it_offloads(proc, windows):
    windows("")
    run = dataclasses.replace(run_of({}), output_dir="/mnt/c/runs")
    of_offloading = " ".join(map(str, wsl.notices(run, offloads=True, proc=proc)))
    assert "pin_memory to false" in of_offloading
    assert "/mnt/c/runs: on a drive of Windows" in of_offloading
    assert "pin_memory" not in " ".join(map(str, wsl.notices(run, offloads=False, proc=proc)))


def test_the_plan_uses_the_ram_that_wsl_has(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(total=2 * GIB))
    assert here().host_bytes <= 2 * GIB
