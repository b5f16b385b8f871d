"""Checks of what is compiled, and of the kernels that attention runs."""

import ctypes.util
import shlex
import shutil

import torch

from genesis_ds.engine import compiled_ops, internals
from genesis_ds.engine.compiled_ops import NEEDED_FOR, OperationName, compiler_missing
from genesis_ds.engine.distributed import accelerator, extensions_directory
from genesis_ds.hosts.case import Case
from genesis_ds.hosts.finding import Finding, fails, ok, warning
from genesis_ds.model.attention import INSTALL_FLASH_ATTN, flash_attn
from genesis_ds.model.attention_proof import prove_attention
from genesis_ds.training.preparation import operations_of

PROVED_TOKENS = 512
"""Of a row by which a kernel is tried, at most, as at the start of a run."""
LARGEST_ERROR = {torch.bfloat16: 0.05, torch.float32: 1e-3}
"""Relative to fp32 math. Kernels that are right differ by some 1e-2 and 1e-6."""


def compiler(case: Case) -> Finding:
    """Look at what compiles DeepSpeed's operations and our own."""
    lacking, needed = compiler_missing(), operations_of(case.resolved)
    if lacking is None:
        return ok(f"{shutil.which('c++') or shutil.which('g++')}, with ninja")
    reason, _, command = lacking.rstrip(")").partition(" (")
    if needed:
        return fails(f"{reason}, and the run needs {', '.join(needed)}", command)
    return warning(f"{reason}: an offloaded optimizer is torch's, which is slower", command)


def operations(case: Case) -> Finding:
    """Look at whether what the run needs is built."""
    needed = operations_of(case.resolved)
    if not needed:
        return ok("this run needs none")
    absent: list[OperationName] = [name for name in needed if not compiled_ops.is_built(name)]
    if not absent:
        return ok(f"{', '.join(needed)} built in {extensions_directory()}")
    commands = " && ".join(f"genesis-ds build {name}" for name in absent)
    return ok(f"{', '.join(absent)} not built yet; the start does it, 1-2 minutes each ({commands})")


def build_lock(case: Case) -> Finding:
    """Look for locks that a killed build has left: torch waits for them for ever without a word; ours does not."""
    stale = compiled_ops.stale_locks()
    if not stale:
        return ok(f"no build was killed in {extensions_directory()}")
    said = f"{', '.join(path.parent.name for path in stale)}: the lock of a build that was killed"
    return warning(f"{said}, for which other programs wait for ever", f"rm {shlex.join(map(str, stale))}")


def libaio(case: Case) -> Finding:
    """Look for the library and header of asynchronous reads, which NVMe offload takes."""
    is_there = internals.op_builder("async_io").is_compatible(verbose=False)
    if is_there:
        return ok(f"{ctypes.util.find_library('aio')}, with its header")
    lost, remedy = NEEDED_FOR["async_io"]
    if case.resolved.nvme_paths:
        return fails(f"not installed, and {lost} needs it", remedy)
    return ok(f"not installed; only {lost} needs it ({remedy.partition(',')[0]})")


def flash_attention(case: Case) -> Finding:
    """Look for the flash-attn package."""
    package = flash_attn()
    if accelerator() == "cpu":
        return ok("no use on a CPU")
    if package is None:
        return ok(f"flash-attn is not installed; torch's own kernels are used ({INSTALL_FLASH_ATTN})")
    return ok(f"flash-attn {package.__version__}")


def attention(case: Case) -> Finding:
    """Run a block of the model, and compare its attention with fp32 math."""
    if case.config.extensions.model:
        return ok(f"{case.config.extensions.model} has its own")
    dtype = torch.bfloat16 if case.resolved.precision == "bf16" else torch.float32
    tokens = min(case.config.batch.seq_len, PROVED_TOKENS)
    proof = prove_attention(case.shape, torch.device(accelerator()), dtype, tokens)
    said = f"{proof.kernel}, relative error {proof.max_error:.1e} against fp32 math"
    if not proof.max_error <= LARGEST_ERROR[dtype]:
        return fails(f"{said}: the kernel is wrong", "set model.attention to sdpa, or install another torch")
    if accelerator() == "cuda" and "not a fused" in proof.kernel:
        return warning(said, "set model.attention to auto")
    return ok(said)


CHECKS = (compiler, operations, build_lock, libaio, flash_attention, attention)
