"""Peak memory of the process."""

from pathlib import Path

import torch

from genesis_ds import metrics
from genesis_ds.hooks.base import Hook, StepRecord

GIB = 2**30


def host_bytes() -> int:
    """Resident host memory of this process, files not counted: anonymous pages and shared ones (pinned memory)."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


class Memory(Hook):
    """Peak GPU memory (what torch's allocator has reserved) and peak host memory, sampled after each step."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.host_peak = 0

    def on_step(self, record: StepRecord) -> None:
        self.host_peak = max(self.host_peak, host_bytes())
        if record.due(self.every):
            record.metrics[metrics.HOST_PEAK] = self.host_peak / GIB
            if torch.cuda.is_available():
                record.metrics[metrics.GPU_PEAK] = torch.cuda.max_memory_reserved() / GIB
