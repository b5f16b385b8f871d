"""The buffers of ZeRO-1 and ZeRO-2, with and without an offloaded optimizer.

s12 is deepspeed/runtime/zero/stage_1_and_2.py of DeepSpeed 0.19.8. Rank 0 is modelled: it saves the weights as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from genesis_ds.memory.deepspeed.buffers import NORM_BYTES, BufferConfig, DeepSpeedBuffers, by_group
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.shapes import Parameter


@dataclass(frozen=True)
class FlatGroup:
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
class _RankSlice:
    """A contiguous slice of a bucket that belongs to one rank."""

    rank: int
    elements: int
    own_fp32: bool
    """It is added to this rank's fp32 gradients."""


class Zero12(DeepSpeedBuffers):
    """The buffers of ZeRO-1 and ZeRO-2, whose optimizers are one class of DeepSpeed."""

    def __init__(self, parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        super().__init__(parameters, config, gpu, host)
        self.stage = config.zero("stage")
        self.offload = config.offload_optimizer != "none"  # nvme is kept in RAM at these stages
        self.pin = self.offload and config.zero("offload_optimizer.pin_memory")
        self.contiguous = self.offload or config.zero("contiguous_gradients")
        self.fp32_gradients = config.weight == 2 and config.accumulate == 4
        """Reduced gradients are added up in an fp32 partition on the GPU (s12:1259-1271, compact)."""
        self.widened = self.fp32_gradients and self.stage == 1
        """Gradients are kept in fp32 from the hook on (s12:1234, grad_accum)."""
        self.groups = [FlatGroup(name, found, config.world_size) for name, found in by_group(parameters).items()]
        self.group_of = {parameter.name: group for group in self.groups for parameter in group.parameters}
        self.slices = {name: cut for group in self.groups for name, cut in group.slices()}
        self.largest = max(parameter.numel for parameter in parameters)
        self.bucket: list[Parameter] = []
        self.in_bucket = 0
        """Elements in the bucket."""
        self.n_buckets = 2 if config.zero("overlap_comm") else 1
        """Buffers that are filled in turn."""
        self.bucket_index = 0
        """The one that is filled now."""
        self.in_partition = 0
        """Elements in the partition gradients of this micro-step."""
        self.buckets_open = False
        self.alive: set[str] = set()
        """Keys of the buffers below that exist already."""

    # ---- initialisation

    def init(self) -> None:
        """Play initialisation (s12:422-659; s12:934, initialize_optimizer_states)."""
        self.construct()
        for group in self.groups:
            self._flatten(group)
            self._master(group)
        if self.offload:
            nbytes = self.largest * self.config.weight
            self.host.alloc_then_pin("gradient staging", "staging buffers", nbytes, self.pin)  # s12:653
            self.gpu.alloc("gradient staging on the GPU", "staging buffers", nbytes)  # s12:659
        for group in self.groups if self.config.master == self.config.weight else ():
            self.host.free(f"staging {group.name}")  # engine/internals.py, sharing_buffers: the master is it
        for group in self.groups:
            nbytes = group.partition * self.config.master
            if self.offload:
                self.host.alloc_then_pin(f"master gradients {group.name}", "gradients", nbytes, self.pin)
            else:
                self.gpu.alloc(f"master gradients {group.name}", "initialisation copies", nbytes)
        for group in self.groups if not self.offload else ():
            self.gpu.free(f"master gradients {group.name}")  # s12:951
        self.host.free("temp_buffer_bit16")

    def _flatten(self, group: FlatGroup) -> None:
        """Make the weights views of one flat buffer (s12:447-534)."""
        nbytes = group.numel * self.config.weight
        key, names = f"weights {group.name}", [parameter.name for parameter in group.parameters]
        capacity = self.config.gpu_capacity
        self.gpu.empty_cache()  # s12:449
        if capacity is None or self.config.one_memory or capacity - self.gpu.allocated >= nbytes:
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

    def _master(self, group: FlatGroup) -> None:
        """Allocate the master weights, by way of a clone on the GPU (s12:560)."""
        config, elements = self.config, group.partition
        key, nbytes, same = f"master weights {group.name}", elements * config.master, config.master == config.weight
        self.gpu.alloc("clone", "initialisation copies", elements * config.weight)
        if same and (config.one_memory or not self.offload):
            self.gpu.free("clone")  # the masters are the clone itself
        if not self.offload:
            self.gpu.alloc(key, "master weights", nbytes)
            self.gpu.free("clone")
            return
        if not (same or config.one_memory):
            # A blocking copy that changes the dtype arrives in the old one first (torch: native/cuda/Copy.cu).
            self.host.alloc(f"{key}, converted", "initialisation copies", nbytes)
            self.transient(self.host, "initialisation copies", elements * config.weight)
            self.host.free(f"{key}, converted")
        self.host.alloc_then_pin(key, "master weights", nbytes, self.pin)
        self.gpu.free("clone")
        self._staging(group)

    def _staging(self, group: FlatGroup) -> None:
        """Allocate the buffer through which new weights go to the GPU (s12:566-575).

        What it was pinned from, temp_buffer_bit16, lives until the next group's takes its name.
        """
        key, nbytes = f"staging {group.name}", group.partition * self.config.weight
        self.host.free("temp_buffer_bit16")
        if self.pin and self.host.pins:
            self.host.alloc("temp_buffer_bit16", "initialisation copies", nbytes)
        self.host.alloc_pinned(key, "staging buffers", nbytes, self.pin)

    # ---- backward

    def gradient(self, parameter: Parameter) -> None:
        """Play the gradient's hook (s12:2284, process_gradients)."""
        super().gradient(parameter)
        self._open_buckets()
        if self.widened:
            self._widen(parameter)
        if self.stage == 2 or (self.config.zero("overlap_comm") and self.last_micro_step):
            self._into_bucket(parameter)

    def reduce(self) -> None:
        """Reduce what is left (s12:1016, the epilogue), at stage 1 only before a step (engine:3089)."""
        if self.stage == 1:
            if not self.last_micro_step:
                return
            waiting = [] if self.config.zero("overlap_comm") else [p for g in self.groups for p in g.parameters]
            for parameter in waiting:
                self._into_bucket(parameter)
        self._reduce_bucket()
        if self.stage == 2 and self.micro_step:  # added to the first micro-step's, which stay until the step (s12:1045)
            self._free_gpu(f"partition gradients {self.micro_step}")
        self.in_partition = 0
        self.buckets_open = False
        for index in range(self.n_buckets):
            self.gpu.free(f"bucket {index}")
        for parameter in self.parameters:
            self._drop(parameter.name)

    def _open_buckets(self) -> None:
        """Allocate the buckets, from the first gradient to the end of the backward (s12:3256, setup_buckets)."""
        if self.buckets_open or not self.contiguous:
            return
        self.buckets_open, self.bucket_index = True, 0
        nbytes = self.config.bucket_elements * self._bucket_bytes
        for index in range(self.n_buckets):
            self.alloc_empty(f"bucket {index}", "gradient bucket", nbytes)

    @property
    def _bucket_bytes(self) -> int:
        return self.config.accumulate if self.widened else self.config.weight

    def _widen(self, parameter: Parameter) -> None:
        """Keep the gradient in fp32 (s12:1234, _fill_param_grad_accum_attribute)."""
        name, nbytes = parameter.name, parameter.numel * self.config.accumulate
        if f"fp32 gradient {name}" in self.alive:
            self.transient(self.gpu, "gradients", nbytes)
        else:
            self._alloc_gpu(f"fp32 gradient {name}", "gradients", nbytes)
        self.drop_gradient(name)

    def _into_bucket(self, parameter: Parameter) -> None:
        """Put a gradient into the bucket (s12:1414, reduce_independent_p_g_buckets_and_remove_grads)."""
        if self.in_bucket + parameter.numel > self.config.bucket_elements:
            self._reduce_bucket()
            self.bucket_index = (self.bucket_index + 1) % self.n_buckets
        if self.contiguous:
            if parameter.numel <= self.config.bucket_elements:
                written = (self.in_bucket + parameter.numel) * self._bucket_bytes
                self.write(f"bucket {self.bucket_index}", "gradient bucket", written)
                self._drop(parameter.name)
            elif self.offload:  # an independent copy, s12:1446
                self.transient(self.gpu, "gradients", parameter.numel * self._bucket_bytes)
        self.bucket.append(parameter)
        self.in_bucket += parameter.numel

    def _reduce_bucket(self) -> None:
        """Reduce the bucket and empty it (s12:2205, reduce_ipg_grads)."""
        if not self.bucket:
            return
        self._average()
        for parameter in self.bucket:
            self._keep(parameter)
        self.bucket, self.in_bucket = [], 0

    def _average(self) -> None:
        """Average the bucket: what is not one contiguous slice is copied, a bucket at a time (s12:1590, s12:2367)."""
        held = self._bucket_bytes
        widened = self.config.communicate * (self.config.communicate != held)
        if not (self.contiguous and self.config.zero("reduce_scatter")):
            self.transient(self.gpu, "gradient bucket", self.in_bucket * (widened + held * (not self.contiguous)))
            return
        chunk: list[_RankSlice] = []
        ranges = list(self._ranges())
        for index, next_slice in enumerate(ranges):
            chunk.append(next_slice)
            elements = sum(held.elements for held in chunk)
            if elements > self.config.bucket_elements or index == len(ranges) - 1:
                # Besides, an fp32 copy of one slice at a time, where slices are added to fp32 gradients (s12:1352).
                cast = (
                    0
                    if 4 in (held, widened)
                    else 4 * max((held.elements for held in chunk if held.own_fp32), default=0)
                )
                self.transient(self.gpu, "gradient bucket", elements * (widened + held * (len(chunk) > 1)) + cast)
                chunk = []

    def _ranges(self) -> Iterator[_RankSlice]:
        """Yield the bucket cut by rank; neighbours of one rank are joined, unless they are added to fp32 gradients."""
        last: _RankSlice | None = None
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
                last = _RankSlice(rank, elements, own_fp32)
        if last is not None:
            yield last

    def _alloc_fp32(self, group: FlatGroup) -> None:
        """Allocate the fp32 partition of a group, from its first reduced gradient to the step (s12:1268)."""
        key = f"fp32 gradients {group.name}"
        if key not in self.alive:
            self._alloc_gpu(key, "gradients", group.partition * self.config.accumulate)

    def _keep(self, parameter: Parameter) -> None:
        """Keep of a reduced gradient what this rank owns (s12:2142, copy_grads_in_partition)."""
        own = self._own(parameter)
        if not own or (self.fp32_gradients and not self.offload):
            self._drop(parameter.name)
        elif self.offload:
            self._to_host(parameter, own)
        else:
            key = f"partition gradients {self.micro_step}"
            if key not in self.alive:  # s12:2179: one buffer for all groups
                elements = sum(held.numel for held in self.parameters if self._own(held))
                self.alive.add(key)
                self.alloc_empty(key, "gradients", elements * self.config.weight)
            self.in_partition += parameter.numel
            self.write(key, "gradients", self.in_partition * self.config.weight)
            self._drop(parameter.name)

    def _to_host(self, parameter: Parameter, own: int) -> None:
        """Accumulate in host memory, and before a step hand over to the optimizer (s12:2161-2176, 1886, 1900)."""
        config, name = self.config, f"accumulated gradient {parameter.name}"
        # micro_step_id at stage 1 is 0 at the only reduction; low-precision masters accumulate in place (s12:1827).
        accumulates = self.stage == 2 and config.steps > 1 and not self.fp32_gradients and config.master == 4
        if accumulates and name not in self.alive:
            self.alive.add(name)
            self.host.alloc_then_pin(name, "gradients", parameter.numel * config.weight, self.pin)
        if self.last_micro_step:
            self.transient(self.gpu, "staging buffers", own * NORM_BYTES)
            held = config.accumulate if self.fp32_gradients else config.weight
            self.transient(self.gpu, "staging buffers", own * config.master * (held != config.master))
            self._drop(parameter.name)

    def _own(self, parameter: Parameter) -> int:
        """Return the elements of a parameter in this rank's partition."""
        return sum(elements for rank, elements in self.slices[parameter.name] if rank == 0)

    def _drop(self, name: str) -> None:
        """Free a gradient's own memory."""
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
        """Play the step (s12:3013)."""
        if self.offload:
            for group in self.groups:
                self.moments(self.host, group.name, group.partition)
                self._free_gpu(f"fp32 gradients {group.name}")
            return
        self.transient(self.gpu, "staging buffers", NORM_BYTES * max(self._own(p) for p in self.parameters))
        for group in self.groups:
            self._flat_gradients(group)
            self.moments(self.gpu, group.name, group.partition)
            self.gpu.free("flat master gradients")
            self._free_gpu(f"fp32 gradients {group.name}")

    def _flat_gradients(self, group: FlatGroup) -> None:
        """Allocate the group's gradients, flat and in the masters' dtype (s12:3104-3135)."""
        config, elements = self.config, group.partition
        if self.fp32_gradients:
            self.gpu.alloc("flat master gradients", "gradients", elements * config.master * (config.master != 4))
            return
        casts = config.master != config.weight
        self.gpu.alloc("flat gradients" if casts else "flat master gradients", "gradients", elements * config.weight)
        if casts:
            self.gpu.alloc("flat master gradients", "gradients", elements * config.master)
            self.gpu.free("flat gradients")
        if group is self.groups[-1]:
            self._free_gpu("partition gradients 0")
            self._free_gpu(f"partition gradients {config.steps - 1}")

    def saved_storages(self) -> Sequence[int]:
        """Return the bytes of the flat weights, and without offload of the rank's masters and moments."""
        config = self.config
        sizes = [group.numel * config.weight for group in self.groups]
        if not self.offload:
            for group in self.groups:
                sizes += [group.partition * config.master]
                sizes += config.n_states(group.name) * [group.partition * config.moment]
        return sizes
