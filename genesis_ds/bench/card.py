"""The GPU as `genesis-ds bench` sees it: how much of it is in use, and how to make a smaller card of it."""

import ctypes

import torch

from genesis_ds.engine.distributed import accelerator
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import CONTEXT_BYTES, format_bytes


class Card:
    """The GPU of this process. Without one, `used` is 0."""

    def __init__(self) -> None:
        self.ballast = 0
        """Bytes held so that less is free."""

    def used(self) -> int:
        """Return the bytes that all programs hold, CUDA contexts included and the ballast not, as the driver counts."""
        if accelerator() == "cpu":
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free - self.ballast

    def shrink(self, nbytes: int, overhead: int) -> None:
        """Leave this process nbytes of the card, `overhead` of them outside torch's allocator.

        It is a smaller card's capacity, not its speed. torch is given a limit, and a ballast is allocated outside of
        torch, since DeepSpeed asks the driver how much is free. Raises UserError where the card has less.
        """
        if accelerator() == "cpu":
            raise UserError("--vram_cap: there is no GPU here; leave it out")
        free, total = torch.cuda.mem_get_info()
        if nbytes > total:
            raise UserError(f"--vram_cap: the card has {format_bytes(total)}; give less, or leave it out")
        torch.cuda.set_per_process_memory_fraction((nbytes - overhead) / total)
        own = min(total - free, CONTEXT_BYTES)  # as it is now; others' share is not in `free`
        self.ballast = max(0, free + own - nbytes)
        if self.ballast:
            _allocate_outside_torch(self.ballast)


def _allocate_outside_torch(nbytes: int) -> None:
    """Hold memory of the current device until the process ends, by the driver's own call."""
    pointer = ctypes.c_uint64()
    code = ctypes.CDLL("libcuda.so.1").cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(nbytes))
    if code:
        raise RuntimeError(f"cuMemAlloc of {format_bytes(nbytes)} failed with CUDA error {code}")
