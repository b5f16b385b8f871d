"""The buffers of ZeRO-0, and of ZeRO-1 in bf16 with fp32 accumulation, which DeepSpeed gives to another optimizer.

engine is deepspeed/runtime/engine.py of DeepSpeed 0.19.8, unfused runtime/fp16/unfused_optimizer.py, bf16
runtime/bf16_optimizer.py.
"""

from collections.abc import Sequence

from genesis_ds.memory.deepspeed.buffers import BufferConfig, DeepSpeedBuffers, Parameter, by_group
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.deepspeed.zero12 import Group

BUCKET_ELEMENTS = 500_000_000
"""Gradients are flattened for reduction in buckets of this size, whatever the configuration (engine:151)."""


def _copied(tensors: Sequence[int]) -> int:
    """Elements of the largest flat copy in a reduction, made even for one rank (engine:3828-3839).

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
        """In bf16, Adam's moments are made at once, by a step on zero gradients (unfused:412)."""
        self.construct()
        if self.setup.weight == 4:
            return
        for parameter in self.parameters:
            self.gpu.alloc("clone", "initialisation copies", 2 * parameter.numel)  # unfused:78
            self.gpu.alloc(f"master {parameter.name}", "master weights", 4 * parameter.numel)
            self.gpu.free("clone")
        self.gpu.alloc("zero gradients", "initialisation copies", (2 + 4) * self.elements)
        for moment in ("first", "second"):
            self.gpu.alloc(f"{moment} moment", "optimizer state", self.setup.moment * self.elements)
        self.gpu.free("zero gradients")

    def reduce(self) -> None:
        """engine:3089-3095."""
        if self.last_micro_step:
            widened = self.setup.communicate if self.setup.communicate != self.setup.weight else 0
            copied = _copied([parameter.numel for parameter in self.parameters])
            self.passing(self.gpu, "gradient bucket", copied * (self.setup.weight + widened))

    def update(self) -> None:
        """unfused:197, step; in fp32 torch's own. Then the gradients are dropped (engine:3524-3533)."""
        if self.setup.weight == 4:
            self.moments(self.gpu, "", self.elements)
        else:
            self.gpu.alloc("fp32 gradients", "gradients", 4 * self.elements)
            self.average(self.gpu, "", self.elements)
            self.gpu.free("fp32 gradients")
        self.drop_gradients()

    def saved_storages(self) -> Sequence[int]:
        """One tensor of each parameter at a time."""
        return [4 * max(parameter.numel for parameter in self.parameters)]


class Bf16Zero1(DeepSpeedBuffers):
    """BF16_Optimizer: ZeRO-1 in bf16 that accumulates in fp32, not offloaded (engine:2310). Gradients are whole."""

    def __init__(self, parameters: Sequence[Parameter], setup: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        super().__init__(parameters, setup, gpu, host)
        self.groups = [Group(name, found, setup.world_size) for name, found in by_group(parameters).items()]

    def init(self) -> None:
        """bf16:152, _setup_for_real_optimizer."""
        self.construct()
        for group in self.groups:
            self.gpu.alloc(f"weights {group.name}", "weights", 2 * group.numel)
            for parameter in group.parameters:
                self.gpu.free(f"made {parameter.name}")
            self.gpu.alloc("clone", "initialisation copies", 2 * group.partition)
            self.gpu.alloc(f"master weights {group.name}", "master weights", 4 * group.partition)
            self.gpu.free("clone")
            self.gpu.alloc(f"fp32 gradients {group.name}", "gradients", self.setup.accumulate * group.numel)

    def gradient(self, parameter: Parameter) -> None:
        """bf16:707: with immediate_grad_update the gradient is added up and dropped at once."""
        super().gradient(parameter)
        if self.setup.get("bf16.immediate_grad_update"):
            self._add(parameter)
            self.drop_gradient(parameter.name)

    def reduce(self) -> None:
        """bf16:508, _update_hp_grad, and before a step the reduction of the fp32 gradients (engine:3923)."""
        if not self.setup.get("bf16.immediate_grad_update"):
            for parameter in self.parameters:
                self._add(parameter)
        if self.last_micro_step:
            sizes = [group.numel for group in self.groups]
            reduced = max(_copied(sizes), max(sizes))
            widened = self.setup.communicate if self.setup.communicate != self.setup.accumulate else 0
            nbytes = _copied(sizes) * self.setup.accumulate + reduced * widened
            self.passing(self.gpu, "gradient bucket", nbytes)

    def _add(self, parameter: Parameter) -> None:
        self.passing(self.gpu, "gradients", parameter.numel * self.setup.accumulate)

    def update(self) -> None:
        """bf16:384, step; then the bf16 gradients are dropped (engine:3524)."""
        for group in self.groups:
            self.moments(self.gpu, group.name, group.partition)
        self.drop_gradients()

    def saved_storages(self) -> Sequence[int]:
        """Flat weights, and the rank's masters and moments."""
        return [4 * group.partition for group in self.groups] + [2 * group.numel for group in self.groups]
