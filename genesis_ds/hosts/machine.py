"""Checks of the machine: its GPUs and driver, memory, disk and clock."""

import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import torch

from genesis_ds.checkpoint.load.teacher import teacher_shapes
from genesis_ds.checkpoint.save.manager import require_space
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.engine.distributed import accelerator
from genesis_ds.errors import named_by_user
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.finding import Finding, fails, ok, warning
from genesis_ds.memory.answers.command import uncollected
from genesis_ds.memory.machine import wsl
from genesis_ds.memory.machine.hardware import CONTEXT_BYTES, format_bytes, here
from genesis_ds.memory.planner import AllocatorSettings, make_plan
from genesis_ds.optimizers.load import state_tensors
from genesis_ds.tasks.load import sized_run
from genesis_ds.training.preparation import machine_of, memory_line
from genesis_ds.training.run_directory import RunDirectory

PCI = Path("/sys/bus/pci/devices")
INFINIBAND = Path("/sys/class/infiniband")
NVIDIA, DISPLAY = "0x10de", "0x03"
"""A PCI device's vendor, and how its class begins where it is a graphics card."""
MUCH = 8
"""A card of which others hold more than one part of so many is worth a look: the driver and a screen hold less."""
SKEW = 2.0
"""Seconds by which the clock of a file server may differ before it is said."""


def gpus(case: Case) -> Finding:
    """Look at the GPUs: as many as the hostfile says, and not held by others."""
    if accelerator() == "cpu":
        return ok("none: a run computes on the CPU, in fp32")
    count, wanted = torch.cuda.device_count(), case.n_here
    if wanted > count:
        return fails(f"{count} here, and slots={wanted} in the hostfile", f"write slots={count} for {case.host} in it")
    cards = [torch.cuda.get_device_name(index) for index in range(wanted)]
    free = [torch.cuda.mem_get_info(index) for index in range(wanted)]
    said = ", ".join(f"{name}: {format_bytes(its)} free" for name, (its, _) in zip(cards, free, strict=True))
    held = [total - its - CONTEXT_BYTES for its, total in free]
    if any(others > total / MUCH for others, (_, total) in zip(held, free, strict=True)):
        return warning(
            f"{said}; other programs hold up to {format_bytes(max(held))}", "nvidia-smi shows which; end them"
        )
    return ok(said)


def driver(case: Case) -> Finding | None:
    """Look at NVIDIA's driver, and whether this torch can use it."""
    smi = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if smi is None:
        if has_nvidia_card():
            return warning(
                "an NVIDIA card is here, but no driver: a run computes on the CPU", "install NVIDIA's driver"
            )
        return None
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False)
    if asked.returncode:
        reason = " ".join((asked.stdout or asked.stderr).split())
        return warning(f"nvidia-smi: {reason}", "install NVIDIA's driver for this kernel anew, or restart")
    version = asked.stdout.split()[0]
    if torch.version.cuda is None:
        return warning(
            f"{version}, but this torch is built without CUDA: a run computes on the CPU",
            "pip install --force-reinstall torch",
        )
    if not torch.cuda.is_available():
        said = f"{version}: {_why_no_cuda()}; a run computes on the CPU"
        return warning(said, f"install a driver for CUDA {torch.version.cuda}, or an older torch")
    return ok(f"{version}; torch is for CUDA {torch.version.cuda}")


def has_nvidia_card(devices: Path = PCI) -> bool:
    """Return whether one is plugged in, with a driver or without."""
    return any(
        (device / "vendor").read_text(encoding="ascii").strip() == NVIDIA
        and (device / "class").read_text(encoding="ascii").startswith(DISPLAY)
        for device in devices.glob("*")
    )


def _why_no_cuda() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).partition("\n")[0]
    return "torch finds no CUDA device (CUDA_VISIBLE_DEVICES?)"


def memory(case: Case) -> Finding:
    """Look at the host's RAM: the container's limit, and what others hold."""
    now, usable = psutil.virtual_memory(), here().host_bytes
    limited = f", the limit of this container or unit ({format_bytes(now.total)} installed)" * (usable < now.total)
    said = f"{format_bytes(usable)}{limited}, {format_bytes(min(now.available, usable))} of it free"
    if now.available < usable / 2:
        return warning(f"{said}: the plan of a run counts on what is there, not on what is free", "end other programs")
    return ok(said)


def memory_plan(case: Case) -> Finding:
    """Plan the memory of the run on this machine, as its start does."""
    run = sized_run(case.config, case.shape, case.resolved, teacher_shapes(case.config))
    with uncollected():
        plan = make_plan(run, machine_of(case.ranks), AllocatorSettings.from_environment())
    if plan.fits:
        return ok(memory_line(plan))
    is_refused = case.config.memory.enforce
    return (fails if is_refused else warning)(
        memory_line(plan), "genesis-ds memory, with the same run, says what helps"
    )


def pinned_memory(case: Case) -> Finding:
    """Look at the limit of locked memory: DeepSpeed's exact pinning and InfiniBand count against it, CUDA does not."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return ok("not limited (ulimit -l)")
    exact = AllocatorSettings.from_environment().exact_pinning or bool(case.resolved.nvme_paths)
    infiniband = len(case.slots) > 1 and INFINIBAND.is_dir() and any(INFINIBAND.iterdir())
    said = f"{format_bytes(soft)} (ulimit -l)"
    if os.geteuid() and (exact or infiniband):
        what = "DeepSpeed's exact pinning" if exact else "InfiniBand"
        mend = "ulimit -l unlimited; for good, '* - memlock unlimited' in /etc/security/limits.d/memlock.conf"
        return warning(f"{said}, which {what} needs more of", mend)
    return ok(f"{said}; CUDA's pinned memory is not counted in it")


def disk(case: Case) -> Finding:
    """Look at the directory of the run: it can be written, and takes the checkpoints that are kept."""
    config, there = case.config, case.output()
    with (
        named_by_user(there, "output_dir", "choose another --output_dir"),
        tempfile.TemporaryFile(dir=there, prefix=".doctor-"),
    ):
        free = shutil.disk_usage(there).free
    require_space(
        RunDirectory.of(config).checkpoints,
        KeepPolicy.of(config.checkpoint, milestones=0),
        n_parameters=case.shape.n_parameters,
        n_state_tensors=len(state_tensors(config)) + config.optimizer.grokfast.is_on,
        n_weights=0,
        n_milestones=0,
    )
    return ok(f"{format_bytes(free)} free in {there}")


def clock(case: Case) -> Finding:
    """Look at the clock, against that of the file system of the run: a file server has its own."""
    with tempfile.NamedTemporaryFile(dir=case.output(), prefix=".doctor-") as file:
        skew = os.stat(file.name).st_mtime - time.time()
    if abs(skew) > SKEW:
        ahead = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} that of {case.output()}'s file system"
        return warning(f"this clock is {ahead}", "sudo timedatectl set-ntp true")
    return ok(time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def wsl2_ram(case: Case) -> Finding | None:
    """Look at how much of Windows' RAM WSL2 gives to Linux."""
    return _of_wsl2(wsl.ram())


def wsl2_pinning(case: Case) -> Finding | None:
    """Say under WSL2 what is known of its pinned memory, where the run offloads to the host."""
    return _of_wsl2(wsl.pinned() if case.resolved.offloads and accelerator() == "cuda" else None)


def wsl2_drives(case: Case) -> Finding | None:
    """Look at whether the files of the run are on a drive of Windows."""
    return _of_wsl2(wsl.drives(wsl.files_of(case.config)))


def _of_wsl2(notice: wsl.Notice | None) -> Finding | None:
    if notice is None:
        return None
    return warning(notice.said, f"{notice.mend} (docs/wsl2.md)") if notice.mend else ok(notice.said)


CHECKS = (gpus, driver, memory, memory_plan, pinned_memory, disk, clock, wsl2_ram, wsl2_pinning, wsl2_drives)
