"""The buffers of ZeRO-0, and of ZeRO-1 in bf16 with fp32 accumulation, which DeepSpeed gives to another optimizer.

engine is deepspeed/runtime/engine.py of DeepSpeed 0.19.8, unfused runtime/fp16/unfused_optimizer.py, bf16
runtime/bf16_optimizer.py.
"""

from collections.abc import Sequence

from genesis_ds.memory.deepspeed.buffers import BufferConfig, DeepSpeedBuffers, by_group
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.deepspeed.zero12 import FlatGroup
from genesis_ds.memory.shapes import Parameter

BUCKET_ELEMENTS = 500_000_000
"""Gradients are flattened for reduction in buckets of this size, whatever the configuration (engine:151)."""


def _copied(tensors: Sequence[int]) -> int:
    """Return the elements of the largest flat copy in a reduction, made even for one rank (engine:3828-3839).

    tensors: their elements. A bucket closes when it has more than BUCKET_ELEMENTS; one tensor alone is not copied.
    """
    largest, bucket, held = 0, 0, 0
    for index, elements in enumerate(tensors):
        bucket, held = bucket + elements, held + 1
        if bucket > BUCKET_ELEMENTS or index == len(tensors) - 1:
            largest = max(largest, bucket if held > 1 else 0)
            bucket, held = 0, 0
    return largest


class Zero0(DeepSpeedBuffers):
    """ZeRO-0: in fp32 the plain optimizer, in bf16 an fp32 copy of each weight beside it (engine:2321, unfused)."""

    @property
    def elements(self) -> int:
        """Elements of the model."""
        return sum(parameter.numel for parameter in self.parameters)

    def init(self) -> None:
        """Play initialisation, without DeepSpeed's step on zero gradients (engine/internals.py, starting_unstepped)."""
        self.construct()
        if self.config.weight == 4:
            return
        for parameter in self.parameters:
            self.gpu.alloc("clone", "initialisation copies", 2 * parameter.numel)  # unfused:78
            self.gpu.alloc(f"master {parameter.name}", "master weights", 4 * parameter.numel)
            self.gpu.free("clone")

    def reduce(self) -> None:
        """Reduce the gradients before a step (engine:3089-3095)."""
        if self.last_micro_step:
            widened = self.config.communicate if self.config.communicate != self.config.weight else 0
            copied = _copied([parameter.numel for parameter in self.parameters])
            self.transient(self.gpu, "gradient bucket", copied * (self.config.weight + widened))

    def update(self) -> None:
        """Play the step (unfused:197; in fp32 torch's own), then drop the gradients (engine:3524-3533)."""
        if self.config.weight != 4:
            self.gpu.alloc("fp32 gradients", "gradients", 4 * self.elements)
        self.around_update(self.gpu, "", self.elements)
        for name, group in by_group(self.parameters).items():
            self.state(self.gpu, name, sum(parameter.numel for parameter in group))
        self.gpu.free("fp32 gradients")
        self.drop_gradients()

    def saved_storages(self) -> Sequence[int]:
        """Return the bytes of the largest parameter: its tensors are copied one at a time."""
        return [4 * max(parameter.numel for parameter in self.parameters)]


class Bf16Zero1(DeepSpeedBuffers):
    """BF16_Optimizer: ZeRO-1 in bf16 that accumulates in fp32, not offloaded (engine:2310). Gradients are whole."""

    def __init__(self, parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        super().__init__(parameters, config, gpu, host)
        self.groups = [FlatGroup(name, found, config.world_size) for name, found in by_group(parameters).items()]

    def init(self) -> None:
        """Play initialisation (bf16:152, _setup_for_real_optimizer)."""
        self.construct()
        for group in self.groups:
            self.gpu.alloc(f"weights {group.name}", "weights", 2 * group.numel)
            for parameter in group.parameters:
                self.gpu.free(f"made {parameter.name}")
            self.gpu.alloc("clone", "initialisation copies", 2 * group.partition)
            self.gpu.alloc(f"master weights {group.name}", "master weights", 4 * group.partition)
            self.gpu.free("clone")
            self.gpu.alloc(f"fp32 gradients {group.name}", "gradients", self.config.accumulate * group.numel)

    def gradient(self, parameter: Parameter) -> None:
        """Play the gradient's hook; with immediate_grad_update it is added up and dropped at once (bf16:707)."""
        super().gradient(parameter)
        if self.config.get("bf16.immediate_grad_update"):
            self._add(parameter)
            self.drop_gradient(parameter.name)

    def reduce(self) -> None:
        """Add up the gradients (bf16:508, _update_hp_grad), and before a step reduce the fp32 ones (engine:3923)."""
        if not self.config.get("bf16.immediate_grad_update"):
            for parameter in self.parameters:
                self._add(parameter)
        if self.last_micro_step:
            sizes = [group.numel for group in self.groups]
            reduced = max(_copied(sizes), max(sizes))
            widened = self.config.communicate if self.config.communicate != self.config.accumulate else 0
            nbytes = _copied(sizes) * self.config.accumulate + reduced * widened
            self.transient(self.gpu, "gradient bucket", nbytes)

    def _add(self, parameter: Parameter) -> None:
        self.transient(self.gpu, "gradients", parameter.numel * self.config.accumulate)

    def update(self) -> None:
        """Play the step (bf16:384), then drop the bf16 gradients (engine:3524)."""
        for group in self.groups:
            self.moments(self.gpu, group.name, group.partition)
        self.drop_gradients()

    def saved_storages(self) -> Sequence[int]:
        """Return the bytes of the flat weights, and of the rank's masters and moments."""
        return [4 * group.partition for group in self.groups] + [2 * group.numel for group in self.groups]
