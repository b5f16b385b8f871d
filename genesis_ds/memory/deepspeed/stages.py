"""The choice of the model of DeepSpeed's buffers for a configuration."""

from collections.abc import Sequence

from genesis_ds.memory.deepspeed.buffers import BufferConfig, DeepSpeedBuffers
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.deepspeed.unpartitioned import Bf16Zero1, Zero0
from genesis_ds.memory.deepspeed.zero3 import Zero3
from genesis_ds.memory.deepspeed.zero12 import Zero12
from genesis_ds.memory.shapes import Parameter

__all__ = ["BufferConfig", "DeepSpeedBuffers", "deepspeed_buffers"]


def deepspeed_buffers(
    parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline, host: Timeline
) -> DeepSpeedBuffers:
    """Return the buffers of one rank, which come and go on two timelines as the methods of DeepSpeedBuffers are called.

    parameters: in the order of nn.Module.parameters().
    """
    return _kind(config)(parameters, config, gpu, host)


def _kind(config: BufferConfig) -> type[DeepSpeedBuffers]:
    stage = config.zero("stage")
    if stage == 1 and config.offload_optimizer == "none" and config.weight == 2 and config.accumulate == 4:
        return Bf16Zero1  # engine:2305-2310
    return {0: Zero0, 1: Zero12, 2: Zero12, 3: Zero3}[stage]
