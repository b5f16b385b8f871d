"""What glibc's malloc does with freed memory, so that a process holds what its memory plan says.

By default malloc raises its threshold for mapping a block of its own up to 32 MiB as such blocks are freed. From then
on weights, gradients and their copies come from the heap, which goes back to the system at its end alone: a model of
146M parameters under ZeRO-2 offload held 1.0 GiB of free heap (7 bytes a parameter) on a CPU. A fixed threshold has
each large buffer go back when it is freed; the heap, where smaller ones leave holes, is trimmed around each update.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from genesis_ds.engine.distributed import accelerator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KIB, MIB = 2**10, 2**20
BUILDING = 64 * KIB
"""Bytes from which a buffer is mapped while an engine is built."""
TRAINING = {"cuda": MIB, "cpu": 4 * MIB}
"""Bytes from which one is mapped in training. On a CPU activations would be mapped anew at each use, which is slow."""
KEPT = 8
"""Such buffers that may be free at the heap's end. With one, each block of a model that is evaluated gave its pages
back, to have them made anew for the next: a fifth of the time."""
TRIMMED_FROM = 8_000_000
"""Parameters from which the heap is trimmed. Below, what an update holds besides is little, and each trim has the
pages of all activations made anew: a tenth of the quickstart's step."""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""A user who has set one of these environment variables has decided."""


@contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Around the building of an engine. What it leaves free in the heap goes back to the system at the end."""
    map_from(BUILDING)
    try:
        yield
    finally:
        map_from(TRAINING[accelerator()])


class TrimHeap:
    """An optimizer hook: on a CPU, whose activations are in the heap, gives back what is free in it around updates.

    Of a model of TRIMMED_FROM parameters or more.
    """

    def __init__(self) -> None:
        self._libc = _glibc() if accelerator() == "cpu" else None

    def before(self, optimizer: Optimizer) -> None:
        """Give back what the backward pass has left."""
        if self._libc:
            _trim(self._libc)

    def after(self, optimizer: Optimizer) -> None:
        """Give back what the update has left."""
        self.before(optimizer)


def map_from(nbytes: int) -> None:
    """Map buffers of so many bytes and more on their own, and give back what is free in the heap.

    From then on its end goes back as soon as KEPT times as much is free there.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, nbytes)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT * nbytes)
        _trim(libc)


def _trim(libc: Any) -> None:
    libc.malloc_trim(0)


def _glibc() -> Any | None:
    """The C library; None where it is not glibc, or a user has decided."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and not any(name in os.environ for name in SETTINGS) else None
