"""What every model of DeepSpeed's buffers shares: its parameters, its settings, and the two memories of a rank.

s12 is deepspeed/runtime/zero/stage_1_and_2.py, s3 stage3.py, pp partition_parameters.py, engine runtime/engine.py, all
of DeepSpeed 0.19.8. Sizes are bytes unless a name says elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from genesis_ds.ds_config.lint import is_bf16
from genesis_ds.ds_config.schema import setting
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.machine.allocator import round_pinned
from genesis_ds.memory.shapes import Parameter
from genesis_ds.model.groups import in_groups
from genesis_ds.optimizers.registry import BLOCKS

ORTHOGONALISING = 16
"""Bytes an element of a matrix while Muon updates it: its momentum, twice, in fp32, and four bf16 tensors."""
NORM_BYTES = 8
"""Gradient norms are taken of an fp64 copy (runtime/zero/utils.py:59, get_norm_dtype)."""


def by_group(parameters: Sequence[Parameter]) -> dict[str, list[Parameter]]:
    """Return {name: parameters} of the parameter groups, in the order in which the model's parameters come to them.

    A large one is cut (see in_groups), and all its parts but the first have a number in their name.
    """
    whole: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        whole.setdefault(parameter.group, []).append(parameter)
    return {
        f"{name} {number}" if number else name: part
        for name, found in whole.items()
        for number, part in enumerate(in_groups(found, lambda parameter: parameter.numel))
    }


@dataclass(frozen=True)
class BufferConfig:
    """What the buffers of a rank depend on besides the model."""

    ds_config: Mapping[str, Any]
    """A resolved ds_config (Resolved.config)."""
    world_size: int
    implementation: Literal["cpu_adam", "torch"]
    """What updates the weights: DeepSpeedCPUAdam or an optimizer in Python (Resolved.optimizer_implementation)."""
    accelerator: Literal["cuda", "cpu"] = "cuda"
    """On "cpu", "GPU" tensors are in host memory: pinning does nothing and a copy to the other device is no copy."""
    grokfast: bool = False
    """Whether an average of the gradient is kept beside the optimizer's state (engine/optimizer_hooks.py)."""
    weight_average: bool = False
    """Whether an average of the weights is kept there as well."""
    exact_pinning: bool = False
    """Pinned buffers take what is asked for and are given back, as with DS_PIN_MEMORY_BACKEND=native or torch's
    pinned_max_round_threshold_mb and pinned_max_cached_size_mb; otherwise they take the next power of two."""
    gpu_capacity: int | None = None
    """Bytes of the card that the process may have. Where the weights do not fit twice, ZeRO-1/2 flatten them on the
    host (s12:447-466); None: they do."""
    n_state_tensors: int = 2
    """Tensors of a weight's shape that the optimizer keeps, such as Adam's two moments."""
    n_of_blocks: int | None = None
    """The same of the group BLOCKS, whose matrices are orthogonalised; None: they are updated as all others are."""
    compensates: bool = False
    """Whether what rounding cuts off the masters is kept (optimizer.master_rounding: kahan)."""
    copies_weights: bool = False
    """Whether the weights before an update are copied to measure it (engine/step_meter.py)."""

    def n_states(self, group: str) -> int:
        """Return the tensors that the optimizer keeps of a parameter group, or of a part of one."""
        is_of_blocks = group.partition(" ")[0] == BLOCKS and self.n_of_blocks is not None
        return self.n_of_blocks or 0 if is_of_blocks else self.n_state_tensors

    def get(self, key: str) -> Any:
        """Return the value of a dotted key, or DeepSpeed's default."""
        return setting(self.ds_config, key)

    def zero(self, key: str) -> Any:
        """Return the value of a key of zero_optimization, or DeepSpeed's default."""
        return self.get(f"zero_optimization.{key}")

    @cached_property
    def one_memory(self) -> bool:
        """True where GPU and host are one memory."""
        return self.accelerator == "cpu"

    @cached_property
    def weight(self) -> int:
        """Bytes of a weight and of its gradient."""
        return 2 if self.get("bf16.enabled") else 4

    @cached_property
    def accumulate(self) -> int:
        """Bytes of an element of accumulated gradients (data_types.grad_accum_dtype)."""
        dtype = self.get("data_types.grad_accum_dtype")
        return self.weight if dtype is None else 2 if is_bf16(dtype) else 4

    @cached_property
    def communicate(self) -> int:
        """Bytes of an element in reductions (engine:1719)."""
        dtype = self.get("communication_data_type")
        return self.weight if dtype is None else 4 if dtype == "fp32" else 2

    @cached_property
    def master(self) -> int:
        """Bytes of a master weight and of the gradient that the optimizer sees."""
        return 2 if self.get("bf16.bf16_master_weights_and_grads") else 4

    @cached_property
    def moment(self) -> int:
        """Bytes of an element of the optimizer's state (ops/adam/cpu_adam.py; torch takes the weights' dtype)."""
        narrow = self.implementation == "torch" or self.get("bf16.bf16_optimizer_states")
        return 2 if self.master == 2 and narrow else 4

    @cached_property
    def offload_optimizer(self) -> str:
        """Where the optimizer state is offloaded to: none, cpu or nvme."""
        return str(self.zero("offload_optimizer.device"))

    @cached_property
    def offload_param(self) -> str:
        """Where the weights are offloaded to: none, cpu or nvme."""
        return str(self.zero("offload_param.device"))

    @cached_property
    def bucket_elements(self) -> int:
        """Elements of a reduction bucket."""
        return int(self.zero("reduce_bucket_size"))

    @cached_property
    def steps(self) -> int:
        """Micro-steps to an optimizer step. Two stand for any larger number: nothing changes after the second."""
        return self.get("gradient_accumulation_steps") or 1


class HostMemory:
    """Host memory: pageable buffers as asked for, pinned ones as torch's caching allocator hands them out.

    That one takes powers of two and keeps what is freed for the next request of the same size.
    """

    def __init__(self, timeline: Timeline, config: BufferConfig) -> None:
        self.timeline = timeline
        self.pins = not config.one_memory
        self.exact = config.exact_pinning
        self._pinned: dict[str, int] = {}
        self._idle: dict[int, list[str]] = {}
        self._blocks = 0

    def alloc(self, key: str, cause: str, nbytes: float) -> None:
        """Allocate a pageable buffer."""
        self.timeline.alloc(key, cause, nbytes)

    def alloc_pinned(self, key: str, cause: str, nbytes: int, wanted: bool = True) -> None:
        """Allocate a buffer, pinned if that is wanted; what rounding adds is counted apart."""
        rounded = wanted and self.pins and not self.exact and nbytes > 0
        size = round_pinned(nbytes) if rounded else nbytes
        if rounded and self._idle.get(size):
            self.timeline.free(self._idle[size].pop())
        self.timeline.alloc(key, cause, nbytes)
        self.timeline.alloc(f"{key}, rounding", "pinned rounding", size - nbytes)
        if rounded:
            self._pinned[key] = size

    def alloc_then_pin(self, key: str, cause: str, nbytes: int, wanted: bool) -> None:
        """Allocate a pageable buffer, then a pinned copy in its place if that is wanted (accelerator.pin_memory)."""
        if not (wanted and self.pins):
            self.alloc(key, cause, nbytes)
            return
        self.alloc(f"{key}, pageable", "initialisation copies", nbytes)
        self.alloc_pinned(key, cause, nbytes)
        self.free(f"{key}, pageable")

    def free(self, key: str) -> None:
        """Free a buffer; a pinned one stays with the allocator."""
        self.timeline.free(key)
        self.timeline.free(f"{key}, rounding")
        size = self._pinned.pop(key, 0)
        if size:
            self._blocks += 1
            idle = f"idle pinned block {self._blocks}"
            self.timeline.alloc(idle, "pinned cache", size)
            self._idle.setdefault(size, []).append(idle)


class DeepSpeedBuffers:
    """The buffers that DeepSpeed holds on one rank, as they come and go. A simulation calls the methods in order.

    init(); then, for each micro-step, enter(module) and leave(module) around forward and backward of each module,
    gradient(parameter) when backward has computed one and keep(parameter) when the simulation has freed it, then
    end_backward(); then step(). The second optimizer step is the first with all buffers. save() stands for
    save_checkpoint. gpu and host may be one timeline where config.one_memory.
    """

    def __init__(self, parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        self.parameters, self.config, self.gpu = parameters, config, gpu
        self.host = HostMemory(host, config)
        self.stepped = False
        self.micro_step = 0
        self.gradients: set[str] = set()
        """Names of the parameters whose .grad has memory of its own."""
        self.kept: set[str] = set()
        """Keys of those gradients once they are ours."""

    @property
    def last_micro_step(self) -> bool:
        """Whether the optimizer steps after this micro-step."""
        return self.micro_step == self.config.steps - 1

    def init(self) -> None:
        """Play deepspeed.initialize and what comes before it."""
        raise NotImplementedError

    def enter(self, module: str) -> None:
        """Play the entry into a module."""

    def leave(self, module: str) -> None:
        """Play the exit from a module."""

    def gradient(self, parameter: Parameter) -> None:
        """Play the hook of a parameter whose gradient, which is the caller's, backward has computed."""
        self.gradients.add(parameter.name)

    def keep(self, parameter: Parameter) -> None:
        """Take over a gradient that the caller has freed, where DeepSpeed leaves it in param.grad.

        A later micro-step adds to it in place.
        """
        key = f"gradient {parameter.name}"
        if parameter.name in self.gradients and key not in self.kept:
            self.kept.add(key)
            self.gpu.alloc(key, "gradients", parameter.numel * self.config.weight)

    def end_backward(self, last_micro_step: bool) -> None:
        """Play the end of a micro-step's backward."""
        assert last_micro_step == self.last_micro_step, "not the accumulation of the configuration"
        assert len(self.gradients) == len(self.kept), "keep() was not called after gradient()"
        self.reduce()
        self.micro_step = 0 if last_micro_step else self.micro_step + 1

    def reduce(self) -> None:
        """Reduce what is left at the end of a backward (engine:3153, _backward_epilogue)."""
        raise NotImplementedError

    def step(self) -> None:
        """Play the optimizer step."""
        self.update()
        self.stepped = True

    def update(self) -> None:
        """Play norms, moments and new weights, within the optimizer step."""
        raise NotImplementedError

    def saved_storages(self) -> Sequence[int]:
        """Return the bytes of each GPU storage that a checkpoint contains."""
        raise NotImplementedError

    def save(self) -> None:
        """Play save_checkpoint: GPU storages are copied to the host one by one, and host ones written as they are."""
        for nbytes in () if self.config.one_memory else self.saved_storages():
            self.host.alloc("saved storage", "saving", nbytes)
            self.host.free("saved storage")

    def checkpoint_bytes(self) -> int:
        """Return the bytes that the first rank writes: weights unless they are split, masters and moments."""
        config, stage = self.config, self.config.zero("stage")
        masters = 0 if stage == 0 and config.weight == 4 else config.master
        beside = config.master * (config.grokfast + config.weight_average + config.compensates)
        n = sum(parameter.numel for parameter in self.parameters)
        states = sum(parameter.numel * config.n_states(parameter.group) for parameter in self.parameters)
        updated = n * (masters + beside) + states * config.moment
        return n * (0 if stage == 3 else config.weight) + updated // (config.world_size if stage else 1)

    def construct(self) -> None:
        """Make the model on the host in its training dtype, then move it to the GPU (engine:2094).

        A weight's initial values are drawn in fp32, with two temporary tensors at a time (model/linear.py).
        """
        for parameter in self.parameters:
            nbytes = parameter.numel * self.config.weight
            memory = self.gpu if self.config.one_memory else self.host
            memory.alloc(f"made {parameter.name}", "weights", nbytes)
            if parameter.group != "norms":
                self.transient(self.host, "initialisation copies", 8 * parameter.numel)
        for parameter in () if self.config.one_memory else self.parameters:
            self.gpu.alloc(f"made {parameter.name}", "weights", parameter.numel * self.config.weight)
            self.host.free(f"made {parameter.name}")

    def drop_gradient(self, name: str) -> None:
        """Free the gradient of a parameter where it holds memory of its own."""
        self.gradients.discard(name)
        self.kept.discard(f"gradient {name}")
        self.gpu.free(f"gradient {name}")

    def drop_gradients(self) -> None:
        """Free all gradients, as zero_grad(set_to_none=True) does."""
        for name in list(self.gradients):
            self.drop_gradient(name)

    def moments(self, memory: "Timeline | HostMemory", group: str, elements: int) -> None:
        """Allocate what the optimizer keeps of a group, at the first step."""
        self.around_update(memory, group, elements)
        self.state(memory, group, elements)

    def state(self, memory: "Timeline | HostMemory", group: str, elements: int) -> None:
        """Allocate the optimizer's own tensors of a group, at the first step; of BLOCKS, orthogonalise the largest."""
        for number in () if self.stepped else range(self.config.n_states(group)):
            memory.alloc(f"moment {number} {group}", "optimizer state", elements * self.config.moment)
        if self.config.n_of_blocks is not None and group.partition(" ")[0] == BLOCKS:
            largest = max((each.numel for each in self.parameters if each.group == BLOCKS), default=0)
            self.transient(self.gpu, "orthogonalised matrix", ORTHOGONALISING * largest)

    def around_update(self, memory: "Timeline | HostMemory", group: str, elements: int) -> None:
        """Allocate what is kept beside the moments, from the first step on, and a copy to measure the update."""
        if self.config.copies_weights:
            self.transient(memory, "weights before the update", elements * self.config.master)
        beside = {
            "average gradient": self.config.grokfast,
            "average weight": self.config.weight_average,
            "compensation": self.config.compensates,
        }
        for name in () if self.stepped else (name for name, kept in beside.items() if kept):
            memory.alloc(f"{name} {group}", "optimizer state", elements * self.config.master)

    def alloc_empty(self, key: str, cause: str, nbytes: int) -> None:
        """Allocate a GPU buffer that torch.empty makes. On a CPU its pages take memory as they are written."""
        if not self.config.one_memory:
            self.gpu.alloc(key, cause, nbytes)

    def write(self, key: str, cause: str, nbytes: int) -> None:
        """Write to the first nbytes of such a buffer."""
        if self.config.one_memory:
            self.gpu.grow(key, cause, nbytes)

    @staticmethod
    def transient(memory: "Timeline | HostMemory", cause: str, nbytes: float) -> None:
        """Allocate a buffer and free it before the next one is made."""
        memory.alloc(f"passing {cause}", cause, nbytes)
        memory.free(f"passing {cause}")
