"""Peak memory of the process."""

import torch

from genesis_ds import metrics
from genesis_ds.engine.meter import HostSampler
from genesis_ds.hooks.base import Hook, StepRecord

GIB = 2**30


class Memory(Hook):
    """Peak GPU memory (what torch's allocator has reserved) and peak host memory since the process started."""

    def __init__(self, sampler: HostSampler, every: int) -> None:
        """sampler: started before the engine was built, so that initialisation counts."""
        self.sampler, self.every = sampler, every
        self.host_peak = 0

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            self.host_peak = max(self.host_peak, self.sampler.take_peak())
            record.metrics[metrics.HOST_PEAK] = self.host_peak / GIB
            if torch.cuda.is_available():
                record.metrics[metrics.GPU_PEAK] = torch.cuda.max_memory_reserved() / GIB

    def close(self) -> None:
        self.sampler.close()
