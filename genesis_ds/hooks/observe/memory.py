"""Peak memory of the process."""

from genesis_ds import metrics
from genesis_ds.engine.meter import HostSampler
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.memory.machine.hardware import own_gpu_peak
from genesis_ds.memory.plan import Plan

GIB = 2**30


class Memory(Hook):
    """Measures this process's peak GPU memory (torch's allocator and what is outside of it) and host memory.

    The last record of a run also has what the plan had predicted.
    """

    def __init__(self, sampler: HostSampler, plan: Plan, every: int) -> None:
        """sampler: as in HookContext."""
        self.sampler, self.plan, self.every = sampler, plan, every
        self.host_peak = 0

    @classmethod
    def build(cls, context: HookContext) -> "Memory":
        """Return the hook of a run."""
        return cls(context.sampler, context.plan, context.run.intervals.log)

    def on_step(self, record: StepRecord) -> None:
        if record.due(self.every):
            self.host_peak = max(self.host_peak, self.sampler.take_peak())
            record.metrics[metrics.HOST_PEAK] = self.host_peak / GIB
            if self.plan.hardware.has_gpu:
                record.metrics[metrics.GPU_PEAK] = own_gpu_peak(self.plan.hardware) / GIB
        if record.is_last:
            record.metrics[metrics.HOST_PREDICTED] = self.plan.host.peak_bytes / GIB
            if self.plan.hardware.has_gpu:
                record.metrics[metrics.GPU_PREDICTED] = self.plan.gpu.peak_bytes / GIB

    def close(self) -> None:
        self.sampler.close()
