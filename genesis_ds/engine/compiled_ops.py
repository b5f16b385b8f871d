"""Compiled operations, DeepSpeed's and our own, built once under a lock that a killed build cannot leave behind.

torch's own build lock is a file: when the building process is killed it stays, and every later run waits on it for
ever without a word. All our builds take an flock on the same directory first, which the kernel releases with the
process; a torch lock found while we hold it is therefore stale, and removed.

DeepSpeed looks at the processor anew at each load, which takes 3 s (two calls of py-cpuinfo), and asks ninja. So what
has been compiled is marked with what it was compiled for, and loaded as it is where that is still so.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import torch

from genesis_ds.disk import lock
from genesis_ds.engine import internals
from genesis_ds.engine.distributed import extensions_directory
from genesis_ds.errors import UserError, named_by_user
from genesis_ds.versions import versions

OperationName = Literal["cpu_adam", "bf16_adam", "async_io", "pin_memory"]
NEEDED_FOR: dict[OperationName, tuple[str, str]] = {
    "cpu_adam": ("the offloaded optimizer", "install g++ and ninja, or set optimizer.implementation to torch"),
    "bf16_adam": ("bf16 master weights", "install g++, or set optimizer.master_rounding to nearest"),
    "async_io": ("NVMe offload", "sudo apt-get install libaio-dev, or offload to the cpu"),
    "pin_memory": ("exactly pinned memory", "install g++ and ninja, or leave DS_PIN_MEMORY_BACKEND unset"),
}
"""What each operation is for, and what to do where it cannot be built."""
KERNELS = Path(__file__).parent / "kernels"
FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
"""Of our own kernels: none lets the compiler change a result, so that every processor gives the same bits."""


def compiler_missing() -> str | None:
    """What is missing to compile an operation, with the command that installs it; None if nothing is."""
    if not (shutil.which("c++") or shutil.which("g++")):
        return "no C++ compiler (sudo apt-get install g++)"
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    return None if ninja else "no ninja (pip install ninja)"


def build(name: OperationName) -> None:
    """Compile an operation if it is not there yet; 1-2 minutes of CPU time, more for async_io, a second for bf16_adam.

    Raises UserError when it cannot be built.
    """
    if name == "bf16_adam":
        _build_own(name)
        return
    if name == "async_io":
        build("pin_memory")  # its builder would, without our lock
    with _build_lock(name) as directory:
        (directory / name / "lock").unlink(missing_ok=True)
        mark = directory / name / "compiled_for"
        if is_built(name):
            with suppress(ImportError):
                internals.load_compiled(name, library(name))
                return
        mark.unlink(missing_ok=True)
        try:
            internals.op_builder(name).load(verbose=False)
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
            reason = compiler_missing() or " ".join(str(error.__cause__ or error).split())
            lost, remedy = NEEDED_FOR[name]
            raise UserError(f"DeepSpeed's operation for {lost} ({name}) cannot be built: {reason}; {remedy}") from error
        if library(name).is_file():
            mark.write_text(_made_of(name), encoding="utf-8")


def library(name: str) -> Path:
    """Return where an operation is, once it is built."""
    return extensions_directory() / name / f"{name}.so"


def is_built(name: OperationName) -> bool:
    """Return whether an operation is compiled already, for this processor and these versions."""
    mark = library(name).with_name("compiled_for")
    return library(name).is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == _made_of(name)


def stale_locks() -> list[Path]:
    """Return torch's build locks that killed builds have left behind. A build of ours that is going on has none."""
    found = sorted(extensions_directory().glob("*/lock"))
    return [path for path in found if not _is_being_built(path.parent.name)]


def _is_being_built(name: str) -> bool:
    ours = extensions_directory() / f"{name}.genesis_ds_lock"
    if not ours.exists():
        return False
    held = lock(ours, wait=False)
    if held:
        held.close()
    return held is None


def _build_own(name: OperationName) -> None:
    """Compile kernels/NAME.cpp, which needs no header of torch's, unless it was already for this processor."""
    source = _source(name)
    with _build_lock(name) as directory:
        (directory / name).mkdir(exist_ok=True)
        mark = directory / name / "compiled_for"
        if is_built(name):
            return
        mark.unlink(missing_ok=True)
        compiler = os.environ.get("CXX") or "c++"
        command = [compiler, *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library(name))]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
        except (OSError, subprocess.CalledProcessError) as error:
            lost, remedy = NEEDED_FOR[name]
            reason = " ".join(str(getattr(error, "stderr", None) or error).split())
            raise UserError(f"the operation for {lost} ({name}) cannot be built: {reason}; {remedy}") from error
        mark.write_text(_made_of(name), encoding="utf-8")


def _source(name: OperationName) -> Path:
    """Return where the source of an operation of our own is; DeepSpeed's have none there."""
    return KERNELS / f"{name}.cpp"


def _made_of(name: OperationName) -> str:
    """Return what a compiled operation depends on; of our own the source too."""
    own = [*FLAGS, _source(name).read_text(encoding="utf-8")] if _source(name).is_file() else []
    return "\n".join([_compiled_for(), *own])


def _compiled_for() -> str:
    """What any compiled operation depends on: the libraries and the processor's instructions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    instructions = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    return f"{versions()} {torch.version.cuda} {' '.join(sorted(instructions.split()))}"


@contextmanager
def _build_lock(name: str) -> Iterator[Path]:
    directory = extensions_directory()
    with named_by_user(directory, "TORCH_EXTENSIONS_DIR", "set it to a directory that can be written"):
        held = lock(directory / f"{name}.genesis_ds_lock", wait=True)
    with held or nullcontext():
        yield directory
