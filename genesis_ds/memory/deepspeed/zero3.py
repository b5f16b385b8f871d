"""The buffers of ZeRO-3, with the optimizer and the weights on the GPU, on the host or on NVMe.

s3 is deepspeed/runtime/zero/stage3.py of DeepSpeed 0.19.8, pp partition_parameters.py, swap runtime/swap_tensor/.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from genesis_ds.memory.deepspeed.buffers import (
    NORM_BYTES,
    BufferConfig,
    DeepSpeedBuffers,
    HostMemory,
    by_group,
)
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.deepspeed.zero3_gather import GatheredWeights
from genesis_ds.memory.shapes import Parameter

MIN_AIO = 1 << 20
"""Smaller tensors stay in memory (swap utils.py:14)."""
AIO_ALIGNMENT = 1024
NORM_PIECE = 250_000_000
"""Elements of a gradient whose norm is taken at a time (s3:1960)."""


@dataclass(frozen=True)
class SubGroup:
    """The unit of the optimizer: parameters of one group, up to sub_group_size elements of this rank."""

    name: str
    parameters: Sequence[Parameter]
    numel: int
    """Elements of this rank."""
    on_gpu: bool
    swapped: bool
    """Its optimizer state is on NVMe."""


class Zero3(DeepSpeedBuffers):
    """The buffers of ZeRO-3: everything is partitioned, weights are gathered where they are used."""

    def __init__(self, parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline, host: Timeline) -> None:
        super().__init__(parameters, config, gpu, host)
        self.offload = config.offload_optimizer != "none"
        self.pin = self.offload and config.zero("offload_optimizer.pin_memory")
        self.pin_weights = config.zero("offload_param.pin_memory")
        self.gathered = GatheredWeights(parameters, config, gpu)
        self.sub_groups = self._sub_groups()
        self.group_of = {held.name: group for group in self.sub_groups for held in group.parameters}
        self.optimizer_memory: Timeline | HostMemory = self.host if self.offload else gpu
        """Where the optimizer's buffers are."""
        self.bucket: list[Parameter] = []
        self.in_bucket = 0

    def shard(self, parameter: Parameter) -> int:
        """Return the elements of a parameter on this rank."""
        return -(-parameter.numel // self.config.world_size)

    @property
    def elements(self) -> int:
        """Elements of this rank."""
        return sum(group.numel for group in self.sub_groups)

    def _sub_groups(self) -> list[SubGroup]:
        """Cut the parameter groups into sub-groups (s3:1210, _create_fp16_sub_groups)."""
        limit, parts = self.config.zero("sub_group_size"), []
        for found in by_group(self.parameters).values():
            part: list[Parameter] = []
            for parameter in found:
                part.append(parameter)
                if sum(map(self.shard, part)) >= limit:
                    parts.append(part)
                    part = []
            parts += [part] if part else []
        groups = []
        for index, part in enumerate(parts):
            numel = sum(map(self.shard, part))
            swapped = self.config.offload_optimizer == "nvme" and numel * self.config.master >= self._swappable
            groups.append(SubGroup(str(index), part, numel, on_gpu=not self.offload, swapped=swapped))
        return groups

    @property
    def _swappable(self) -> int:
        return max(MIN_AIO, int(self.config.get("aio.block_size")))

    def _aligned(self, elements: int, nbytes: int) -> int:
        """Return the bytes of a swap buffer for so many elements of `nbytes` bytes."""
        unit = AIO_ALIGNMENT * int(self.config.get("aio.intra_op_parallelism"))
        return -(-elements * nbytes // unit) * unit

    # ---- initialisation

    def init(self) -> None:
        """Play zero.Init around the model's construction, then the optimizer's __init__."""
        self._partition_as_made()
        self._collect_weights()
        if self.config.offload_optimizer == "nvme":  # swap optimizer_utils.py:187
            largest = self._aligned(max(group.numel for group in self.sub_groups), self.config.master)
            count = self.config.zero("offload_optimizer.buffer_count")
            self.host.alloc("optimizer swap buffers", "NVMe buffers", count * largest)
        self._masters()
        self._master_gradients()
        if self.config.zero("contiguous_gradients"):
            nbytes = self.config.bucket_elements * self.config.communicate
            self.alloc_empty("bucket", "gradient bucket", nbytes)  # s3:782
        key, nbytes = "flat gradients", self.elements * self.config.accumulate
        if self.offload:
            self.host.alloc_then_pin(key, "gradients", nbytes, self.pin)  # s3:791
        else:
            self.gpu.alloc(key, "gradients", nbytes)
        for parameter in self.parameters:  # s3:1504: each gathered once for its hook
            self.transient(self.gpu, "initialisation copies", parameter.numel * self.config.weight)

    def _partition_as_made(self) -> None:
        """Make each weight whole on the GPU, in fp32 and then in its dtype, and partition it (pp:263, 1778-1850)."""
        config, device = self.config, self.config.offload_param
        if device == "nvme":  # swap partitioned_param_swapper.py:124
            size = self._aligned(config.zero("offload_param.buffer_size"), config.weight)
            self.host.alloc("weight swap buffers", "NVMe buffers", config.zero("offload_param.buffer_count") * size)
        for parameter in self.parameters:
            self.gpu.alloc("made in fp32", "initialisation copies", 4 * parameter.numel)
            if config.weight != 4:
                self.gpu.alloc("made", "initialisation copies", config.weight * parameter.numel)
                self.gpu.free("made in fp32")
            if parameter.group != "norms":
                self.transient(self.host, "initialisation copies", 8 * parameter.numel)
            nbytes, key = self.shard(parameter) * config.weight, f"shard {parameter.name}"
            if device == "none":
                self.gpu.alloc(key, "weights", nbytes)
            elif device == "cpu" or nbytes < self._swappable:
                self.host.alloc_pinned(key, "weights", nbytes, self.pin_weights)
            self.gpu.free("made in fp32")
            self.gpu.free("made")

    def _collect_weights(self) -> None:
        """Move the shards to flat buffers (s3:965-1004)."""
        shards = [f"shard {parameter.name}" for parameter in self.parameters]
        if self.config.offload_param == "none":  # zero/utils.py:215, defragment, by way of the host
            memory = self.gpu if self.config.one_memory else self.host
            nbytes = self.elements * self.config.weight
            memory.alloc("defragmentation", "weights" if self.config.one_memory else "initialisation copies", nbytes)
            for shard in shards:
                self.gpu.free(shard)
            if not self.config.one_memory:
                self.gpu.empty_cache()  # zero/utils.py:234
                self.gpu.alloc("weights", "weights", nbytes)
                self.host.free("defragmentation")
            return
        for group, elements in enumerate(self._weights_on_host()):
            self.host.alloc_pinned(
                f"weights {group}", "weights", elements * self.config.weight
            )  # pinned always: s3:906
        for shard in shards:
            self.host.free(shard)
        if self.config.offload_param == "nvme" and sum(self._weights_on_host()) < self.elements:  # s3:1007
            largest = max(self.sub_groups, key=lambda group: group.numel)
            nbytes = sum(self._aligned(parameter.numel, self.config.weight) for parameter in largest.parameters)
            self.host.alloc("weight write buffer", "NVMe buffers", nbytes)

    def _weights_on_host(self) -> list[int]:
        """Return the elements of each parameter group's flat weights; up to max_in_cpu of them with NVMe (s3:888)."""
        totals = [sum(map(self.shard, found)) for found in by_group(self.parameters).values()]
        if self.config.offload_param == "cpu":
            return totals
        room = self.config.zero("offload_param.max_in_cpu")
        kept = []
        for total in totals:
            kept.append(min(total, max(0, room)))
            room -= total
        return kept

    def _masters(self) -> None:
        """Allocate the master weights (s3:1081, _create_fp32_partitions).

        They are converted, then cloned; a conversion lives until the next one is made.

        fp32 weights have a clone too: s3:1162 would take them as they are, but compares a device with its name.
        """
        config = self.config
        same = config.weight == config.master
        in_place = same and (config.one_memory or self.offload == (config.offload_param != "none"))
        before = ""
        for group in self.sub_groups:
            memory = self.gpu if group.on_gpu else self.host
            nbytes = group.numel * config.master
            if group.swapped:
                if config.offload_param == "nvme":  # s3:1135
                    self.transient(self.host, "initialisation copies", nbytes)
                continue
            if not in_place:
                memory.alloc(f"converted {group.name}", "initialisation copies", nbytes)
            if self.offload and not (same or group.on_gpu or config.one_memory) and config.offload_param == "none":
                self.transient(self.host, "initialisation copies", group.numel * config.weight)
            self._free_everywhere(before)
            before = f"converted {group.name}"
            memory.alloc(f"master weights {group.name}", "master weights", nbytes)
        self._free_everywhere(before)
        if same and self.config.offload_optimizer == self.config.offload_param == "cpu":
            for group in self.sub_groups:  # engine/internals.py, sharing_buffers: the weights are they
                self.host.free(f"master weights {group.name}")

    def _master_gradients(self) -> None:
        """Allocate the masters' gradients, beside a buffer of the largest sub-group (s3:1301)."""
        if self.config.offload_optimizer == "cpu" and self.config.master == self.config.accumulate:
            return  # engine/internals.py, sharing_buffers: the flat gradients are they
        master = self.config.master
        largest = max(group.numel for group in self.sub_groups)
        self.optimizer_memory.alloc("gradient buffer", "initialisation copies", largest * master)
        for group in self.sub_groups if self.offload else ():
            if group.swapped:
                continue
            key = f"master gradients {group.name}"
            self.host.alloc_then_pin(key, "gradients", group.numel * master, self.pin)
            if group.on_gpu and not self.config.one_memory:
                self.gpu.alloc(key, "gradients", group.numel * master)
                self.host.free(key)
        self.optimizer_memory.free("gradient buffer")

    def _free_everywhere(self, key: str) -> None:
        self.gpu.free(key)
        self.host.free(key)

    # ---- forward and backward

    def enter(self, module: str) -> None:
        """Gather the weights of a module."""
        self.gathered.enter(module)

    def leave(self, module: str) -> None:
        """Release the weights of a module, unless they are used again soon."""
        self.gathered.leave(module)

    def gradient(self, parameter: Parameter) -> None:
        """Put a gradient into the bucket, or on its own where it is larger (s3:1569, 1621)."""
        super().gradient(parameter)
        if self.bucket and self.in_bucket + parameter.numel > self.config.bucket_elements:
            self._reduce_bucket()
        if self.config.zero("contiguous_gradients") and self.in_bucket + parameter.numel <= self.config.bucket_elements:
            written = (self.in_bucket + parameter.numel) * self.config.communicate
            self.write("bucket", "gradient bucket", written)
            self.drop_gradient(parameter.name)
        self.bucket.append(parameter)
        self.in_bucket += parameter.numel

    def reduce(self) -> None:
        """Reduce what is left (s3:1407, independent_gradient_partition_epilogue)."""
        self._reduce_bucket()
        self.gathered.end_micro_step()

    def _reduce_bucket(self) -> None:
        """Reduce the bucket, copied by rank unless it is one gradient that divides evenly (s3:1648)."""
        config, padded = self.config, sum(self.shard(parameter) for parameter in self.bucket) * self.config.world_size
        whole = len(self.bucket) == 1 and padded == self.in_bucket
        contiguous = config.zero("contiguous_gradients") and self.in_bucket <= config.bucket_elements
        in_place = whole or (contiguous and not config.zero("reduce_scatter"))
        copied = 0 if in_place else padded * config.communicate  # comm/coalesced_collectives.py, torch.cat
        widened = self.in_bucket * config.communicate * (config.communicate != config.weight)
        parts = padded // config.world_size * config.accumulate * (config.communicate != config.accumulate)
        self.gpu.alloc("reduced", "gradient bucket", copied + widened + parts)
        for parameter in self.bucket:
            self._keep(parameter)
        for parameter in self.bucket:
            self.gpu.free(f"gradient to swap {parameter.name}")
        self.gpu.free("reduced")
        self.bucket, self.in_bucket = [], 0

    def _keep(self, parameter: Parameter) -> None:
        """Add a reduced gradient to the flat ones, and before a step hand it to the optimizer (s3:2006)."""
        config, elements, group = self.config, self.shard(parameter), self.group_of[parameter.name]
        if self.offload:
            if not config.one_memory:
                self.gpu.alloc("gradient part", "staging buffers", elements * config.accumulate)
            if self.last_micro_step:  # s3:1443
                norm = NORM_BYTES * min(elements, NORM_PIECE)
                self.transient(self.gpu, "staging buffers", norm)
                if group.swapped:
                    self._swap_gradient(parameter, elements)
                else:
                    cast = elements * config.master * (config.master != config.accumulate)
                    self.transient(self.gpu, "staging buffers", cast)
            self.gpu.free("gradient part")
        self.drop_gradient(parameter.name)

    def _swap_gradient(self, parameter: Parameter, elements: int) -> None:
        """Keep a gradient on the GPU until its bucket is written; a small or odd one until the step (swap utils)."""
        nbytes = elements * self.config.master
        stays = nbytes < self._swappable or self._aligned(elements, self.config.master) != nbytes
        key = f"gradient {'kept' if stays else 'to swap'} {parameter.name}"
        self.gpu.alloc(key, "NVMe buffers", nbytes)

    # ---- step

    def update(self) -> None:
        """Play the step (s3:2873)."""
        self.gathered.release_all()
        if not self.offload:
            self.transient(self.gpu, "staging buffers", NORM_BYTES * max(map(self.shard, self.parameters)))
        for group in self.sub_groups:
            if not self.offload:
                self._flat_gradients(group)
            self._update_group(group)
            self.gpu.free("flat master gradients")
        for parameter in self.parameters:
            self.gpu.free(f"gradient kept {parameter.name}")
        self.gathered.gather_persistent()

    def _flat_gradients(self, group: SubGroup) -> None:
        """Allocate the flat gradients of a sub-group (s3:2683, _prepare_fp32_grad_for_sub_group)."""
        config = self.config
        casts = config.master != config.accumulate
        if len(group.parameters) > 1:
            key = "flat averaged" if casts else "flat master gradients"
            self.gpu.alloc(key, "gradients", group.numel * config.accumulate)
        if casts:
            self.gpu.alloc("flat master gradients", "gradients", group.numel * config.master)
            self.gpu.free("flat averaged")

    def _update_group(self, group: SubGroup) -> None:
        """Allocate the moments, then convert the new weights (s3:2913-2931)."""
        config = self.config
        memory = self.gpu if group.on_gpu else self.host
        if self.stepped and group.swapped:
            self._free_moments(group)
        self.moments(memory, group.name, group.numel)
        if group.swapped and not self._pipelined:
            self._free_moments(group)
        crosses = self.offload and not group.on_gpu and config.offload_param == "none" and not config.one_memory
        if crosses and config.master != config.weight:  # a blocking copy to the GPU converts on the host first
            self.transient(self.host, "staging buffers", group.numel * config.weight)

    @property
    def _pipelined(self) -> bool:
        """True where the moments of the first step stay until the second (pipelined_optimizer_swapper.py:198-239)."""
        directions = ("offload_optimizer.pipeline_read", "offload_optimizer.pipeline_write")
        return any(self.config.zero(direction) for direction in directions)

    def _free_moments(self, group: SubGroup) -> None:
        for number in range(self.config.n_state_tensors):
            self.host.free(f"moment {number} {group.name}")

    def saved_storages(self) -> Sequence[int]:
        """Return the bytes of masters and moments on the GPU; partitioned weights have none in state_dict()."""
        held = [group for group in self.sub_groups if group.on_gpu]
        return [group.numel * max(self.config.master, self.config.moment) for group in held]

    def save(self) -> None:
        """Play save_checkpoint with all weights released (s3:3844)."""
        self.gathered.release_all()
        super().save()
        self.gathered.gather_persistent()
