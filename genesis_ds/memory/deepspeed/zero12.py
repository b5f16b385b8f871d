"""The buffers of ZeRO-1 and ZeRO-2, with and without an offloaded optimizer.

s12 is deepspeed/runtime/zero/stage_1_and_2.py of DeepSpeed 0.19.8. Rank 0 is modelled: it saves the weights as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from genesis_ds.memory.deepspeed.buffers import NORM_BYTES, BufferConfig, DeepSpeedBuffers, Parameter, by_group
from genesis_ds.memory.deepspeed.timeline import Timeline


@dataclass(frozen=True)
class Group:
    """A parameter group: one flat buffer, cut into equal partitions."""

    name: str
    parameters: Sequence[Parameter]
    world_size: int

    @cached_property
    def partition(self) -> int:
        """Elements of a rank's part: the flat buffer is padded to a multiple of 2 W (s12:441)."""
        elements = sum(parameter.numel for parameter in self.parameters)
        return 2 * -(-elements // (2 * self.world_size))

    @property
    def numel(self) -> int:
        """Elements of the flat buffer."""
        return self.partition * self.world_size

    def slices(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        """Parameter name -> [(rank, elements of the parameter in its partition), ...]."""
        start = 0
        for parameter in self.parameters:
            end, cut = start + parameter.numel, []
            for rank in range(start // self.partition, (end - 1) // self.partition + 1):
                overlap = min(end, (rank + 1) * self.partition) - max(start, rank * self.partition)
                cut.append((rank, overlap))
            yield parameter.name, cut
            start = end


@dataclass
class _Range:
    """A contiguous piece of a bucket that belongs to one rank."""

    rank: int
    elements: int
    own_fp32: bool
    """It is added to this rank's fp32 gradients."""


class Zero12(DeepSpeedBuffers):
    """ZeRO-1 and ZeRO-2."""

    def __init__(self, parameters: Sequence[Parameter], setup: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        super().__init__(parameters, setup, gpu, host)
        self.stage = setup.zero("stage")
        self.offload = setup.offload_optimizer != "none"  # nvme is kept in RAM at these stages
        self.pin = self.offload and setup.zero("offload_optimizer.pin_memory")
        self.contiguous = self.offload or setup.zero("contiguous_gradients")
        self.fp32_gradients = setup.weight == 2 and setup.accumulate == 4
        """Reduced gradients are added up in an fp32 partition on the GPU (s12:1259-1271, compact)."""
        self.widened = self.fp32_gradients and self.stage == 1
        """Gradients are kept in fp32 from the hook on (s12:1234, grad_accum)."""
        self.groups = [Group(name, found, setup.world_size) for name, found in by_group(parameters).items()]
        self.group_of = {parameter.name: group for group in self.groups for parameter in group.parameters}
        self.slices = {name: cut for group in self.groups for name, cut in group.slices()}
        self.largest = max(parameter.numel for parameter in parameters)
        self.bucket: list[Parameter] = []
        self.in_bucket = 0
        """Elements in the bucket."""
        self.buckets_open = False
        self.alive: set[str] = set()
        """Keys of the buffers below that exist already."""

    # ---- initialisation

    def init(self) -> None:
        """s12:422-659, and s12:934, initialize_optimizer_states."""
        self.construct()
        for group in self.groups:
            self._flatten(group)
            self._master(group)
        if self.offload:
            nbytes = self.largest * self.setup.weight
            self.host.alloc_then_pin("gradient staging", "staging buffers", nbytes, self.pin)  # s12:653
            self.gpu.alloc("gradient staging on the GPU", "staging buffers", nbytes)  # s12:659
        for group in self.groups:
            nbytes = group.partition * self.setup.master
            if self.offload:
                self.host.alloc_then_pin(f"master gradients {group.name}", "gradients", nbytes, self.pin)
            else:
                self.gpu.alloc(f"master gradients {group.name}", "initialisation copies", nbytes)
        for group in self.groups if not self.offload else ():
            self.gpu.free(f"master gradients {group.name}")  # s12:951
        self.host.free("temp_buffer_bit16")

    def _flatten(self, group: Group) -> None:
        """The weights become views of one flat buffer (s12:447-534)."""
        nbytes = group.numel * self.setup.weight
        key, names = f"weights {group.name}", [parameter.name for parameter in group.parameters]
        capacity = self.setup.gpu_capacity
        if capacity is None or self.setup.one_memory or capacity - self.gpu.allocated >= nbytes:
            self.gpu.alloc(key, "weights", nbytes)
            self._free_made(names)
            return
        self.host.alloc("weights on the host", "initialisation copies", nbytes)  # cpu_data, s12:459
        self._free_made(names)
        self.host.alloc("flat weights on the host", "initialisation copies", nbytes)
        self.host.free("weights on the host")
        self.gpu.alloc(key, "weights", nbytes)
        self.host.free("flat weights on the host")

    def _free_made(self, names: list[str]) -> None:
        for name in names:
            self.gpu.free(f"made {name}")

    def _master(self, group: Group) -> None:
        """The master weights, by way of a clone on the GPU (s12:560)."""
        setup, elements = self.setup, group.partition
        key, nbytes, same = f"master weights {group.name}", elements * setup.master, setup.master == setup.weight
        self.gpu.alloc("clone", "initialisation copies", elements * setup.weight)
        if same and (setup.one_memory or not self.offload):
            self.gpu.free("clone")  # the masters are the clone itself
        if not self.offload:
            self.gpu.alloc(key, "master weights", nbytes)
            self.gpu.free("clone")
            return
        if not (same or setup.one_memory):
            # A blocking copy that changes the dtype arrives in the old one first (torch: native/cuda/Copy.cu).
            self.host.alloc(f"{key}, converted", "initialisation copies", nbytes)
            self.passing(self.host, "initialisation copies", elements * setup.weight)
            self.host.free(f"{key}, converted")
        self.host.alloc_then_pin(key, "master weights", nbytes, self.pin)
        self.gpu.free("clone")
        self._staging(group)

    def _staging(self, group: Group) -> None:
        """The buffer through which new weights go to the GPU (s12:566-575).

        What it was pinned from, temp_buffer_bit16, lives until the next group's takes its name.
        """
        key, nbytes = f"staging {group.name}", group.partition * self.setup.weight
        self.host.free("temp_buffer_bit16")
        if self.pin and self.host.pins:
            self.host.alloc("temp_buffer_bit16", "initialisation copies", nbytes)
        self.host.alloc_pinned(key, "staging buffers", nbytes, self.pin)

    # ---- backward

    def gradient(self, parameter: Parameter) -> None:
        """s12:2284, process_gradients."""
        super().gradient(parameter)
        self._open_buckets()
        if self.widened:
            self._widen(parameter)
        if self.stage == 2 or (self.setup.zero("overlap_comm") and self.last_micro_step):
            self._into_bucket(parameter)

    def reduce(self) -> None:
        """s12:1016, independent_gradient_partition_epilogue; at stage 1 only before a step (engine:3089)."""
        if self.stage == 1:
            if not self.last_micro_step:
                return
            waiting = [] if self.setup.zero("overlap_comm") else [p for g in self.groups for p in g.parameters]
            for parameter in waiting:
                self._into_bucket(parameter)
        self._reduce_bucket()
        if self.stage == 2 and self.micro_step:  # added to the first micro-step's, which stay until the step (s12:1045)
            self._free_gpu(f"partition gradients {self.micro_step}")
        self.buckets_open = False
        for index in range(2):
            self.gpu.free(f"bucket {index}")
        for parameter in self.parameters:
            self._drop(parameter.name)

    def _open_buckets(self) -> None:
        """s12:3256, setup_buckets: they live from the first gradient to the end of the backward."""
        if self.buckets_open or not self.contiguous:
            return
        self.buckets_open = True
        for index in range(2 if self.setup.zero("overlap_comm") else 1):
            self.gpu.alloc(f"bucket {index}", "gradient bucket", self.bucket_elements * self._bucket_bytes)

    @property
    def _bucket_bytes(self) -> int:
        return self.setup.accumulate if self.widened else self.setup.weight

    def _widen(self, parameter: Parameter) -> None:
        """The gradient is kept in fp32 (s12:1234, _fill_param_grad_accum_attribute)."""
        name, nbytes = parameter.name, parameter.numel * self.setup.accumulate
        if f"fp32 gradient {name}" in self.alive:
            self.passing(self.gpu, "gradients", nbytes)
        else:
            self._alloc_gpu(f"fp32 gradient {name}", "gradients", nbytes)
        self.drop_gradient(name)

    def _into_bucket(self, parameter: Parameter) -> None:
        """s12:1414, reduce_independent_p_g_buckets_and_remove_grads."""
        if self.in_bucket + parameter.numel > self.setup.bucket_elements:
            self._reduce_bucket()
        if self.contiguous:
            if parameter.numel <= self.setup.bucket_elements:
                self._drop(parameter.name)
            elif self.offload:  # an independent copy, s12:1446
                self.passing(self.gpu, "gradients", parameter.numel * self._bucket_bytes)
        self.bucket.append(parameter)
        self.in_bucket += parameter.numel

    def _reduce_bucket(self) -> None:
        """s12:2205, reduce_ipg_grads."""
        if not self.bucket:
            return
        self._average()
        for parameter in self.bucket:
            self._keep(parameter)
        self.bucket, self.in_bucket = [], 0

    def _average(self) -> None:
        """s12:1590, average_tensor: what is not one contiguous piece is copied, b elements at a time (s12:2367)."""
        held = self._bucket_bytes
        widened = self.setup.communicate * (self.setup.communicate != held)
        if not (self.contiguous and self.setup.zero("reduce_scatter")):
            self.passing(self.gpu, "gradient bucket", self.in_bucket * (widened + held * (not self.contiguous)))
            return
        chunk: list[_Range] = []
        ranges = list(self._ranges())
        for index, piece in enumerate(ranges):
            chunk.append(piece)
            elements = sum(part.elements for part in chunk)
            if elements > self.setup.bucket_elements or index == len(ranges) - 1:
                # Besides, an fp32 copy of one piece at a time, where pieces are added to fp32 gradients (s12:1352).
                cast = (
                    0
                    if 4 in (held, widened)
                    else 4 * max((part.elements for part in chunk if part.own_fp32), default=0)
                )
                self.passing(self.gpu, "gradient bucket", elements * (widened + held * (len(chunk) > 1)) + cast)
                chunk = []

    def _ranges(self) -> Iterator[_Range]:
        """Yield the bucket cut by rank; neighbours of one rank are joined, unless they are added to fp32 gradients."""
        last: _Range | None = None
        for parameter in self.bucket:
            for rank, elements in self.slices[parameter.name]:
                own_fp32 = self.fp32_gradients and rank == 0
                if own_fp32:
                    self._alloc_fp32(self.group_of[parameter.name])
                if last is not None and last.rank == rank and not own_fp32:
                    last.elements += elements
                    continue
                if last is not None:
                    yield last
                last = _Range(rank, elements, own_fp32)
        if last is not None:
            yield last

    def _alloc_fp32(self, group: Group) -> None:
        """The fp32 partition of a group (s12:1268), from its first reduced gradient to the step."""
        key = f"fp32 gradients {group.name}"
        if key not in self.alive:
            self._alloc_gpu(key, "gradients", group.partition * self.setup.accumulate)

    def _keep(self, parameter: Parameter) -> None:
        """What a reduced gradient leaves behind (s12:2142, copy_grads_in_partition)."""
        own = self._own(parameter)
        if not own or (self.fp32_gradients and not self.offload):
            self._drop(parameter.name)
        elif self.offload:
            self._to_host(parameter, own)
        else:
            key = f"partition gradients {self.micro_step}"
            if key not in self.alive:  # s12:2179: one buffer for all groups
                elements = sum(held.numel for held in self.parameters if self._own(held))
                self._alloc_gpu(key, "gradients", elements * self.setup.weight)
            self._drop(parameter.name)

    def _to_host(self, parameter: Parameter, own: int) -> None:
        """Accumulate in host memory, and before a step hand over to the optimizer (s12:2161-2176, 1886, 1900)."""
        setup, name = self.setup, f"accumulated gradient {parameter.name}"
        # micro_step_id at stage 1 is 0 at the only reduction; low-precision masters accumulate in place (s12:1827).
        accumulates = self.stage == 2 and setup.steps > 1 and not self.fp32_gradients and setup.master == 4
        if accumulates and name not in self.alive:
            self.alive.add(name)
            self.host.alloc_then_pin(name, "gradients", parameter.numel * setup.weight, self.pin)
        if self.last_micro_step:
            self.passing(self.gpu, "staging buffers", own * NORM_BYTES)
            held = setup.accumulate if self.fp32_gradients else setup.weight
            self.passing(self.gpu, "staging buffers", own * setup.master * (held != setup.master))
            self._drop(parameter.name)

    def _own(self, parameter: Parameter) -> int:
        """Elements of a parameter in this rank's partition."""
        return sum(elements for rank, elements in self.slices[parameter.name] if rank == 0)

    def _drop(self, name: str) -> None:
        """A gradient's own memory is freed."""
        self.drop_gradient(name)
        self._free_gpu(f"fp32 gradient {name}")

    def _alloc_gpu(self, key: str, cause: str, nbytes: int) -> None:
        self.alive.add(key)
        self.gpu.alloc(key, cause, nbytes)

    def _free_gpu(self, key: str) -> None:
        self.alive.discard(key)
        self.gpu.free(key)

    # ---- step

    def update(self) -> None:
        """s12:3013, step."""
        if self.offload:
            for group in self.groups:
                self.moments(self.host, group.name, group.partition)
                self._free_gpu(f"fp32 gradients {group.name}")
            return
        self.passing(self.gpu, "staging buffers", NORM_BYTES * max(self._own(p) for p in self.parameters))
        for group in self.groups:
            self._flat_gradients(group)
            self.moments(self.gpu, group.name, group.partition)
            self.gpu.free("flat master gradients")
            self._free_gpu(f"fp32 gradients {group.name}")

    def _flat_gradients(self, group: Group) -> None:
        """The group's gradients, flat and in the masters' dtype (s12:3104-3135)."""
        setup, elements = self.setup, group.partition
        if self.fp32_gradients:
            self.gpu.alloc("flat master gradients", "gradients", elements * setup.master * (setup.master != 4))
            return
        casts = setup.master != setup.weight
        self.gpu.alloc("flat gradients" if casts else "flat master gradients", "gradients", elements * setup.weight)
        if casts:
            self.gpu.alloc("flat master gradients", "gradients", elements * setup.master)
            self.gpu.free("flat gradients")
        if group is self.groups[-1]:
            self._free_gpu("partition gradients 0")
            self._free_gpu(f"partition gradients {setup.steps - 1}")

    def saved_storages(self) -> Sequence[int]:
        """The flat weights, and without offload the rank's masters and moments."""
        setup = self.setup
        sizes = [group.numel * setup.weight for group in self.groups]
        if not self.offload:
            for group in self.groups:
                sizes += [group.partition * setup.master] + 2 * [group.partition * setup.moment]
        return sizes
