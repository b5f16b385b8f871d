"""The weights that ZeRO-3 holds gathered on the GPU: fetched, prefetched and kept for their next use.

ppc is deepspeed/runtime/zero/partitioned_param_coordinator.py of DeepSpeed 0.19.8, pp partition_parameters.py.
DeepSpeed fetches and releases each sub-module (a linear layer, a norm) as it comes; here those of one module of the
timeline are fetched one after another when it is entered and released together when it is left, so that the weights
of up to one decoder block are counted more than are there.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genesis_ds.memory.deepspeed.buffers import BufferConfig
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.shapes import Parameter

CAUSE = "gathered weights (ZeRO-3)"


@dataclass
class _AllGather:
    """Weights gathered by one call over several ranks: their flat buffer lives until the last is used (pp:735)."""

    key: str
    parameters: list[Parameter]
    waiting: set[str]
    arrived: bool = False


class GatheredWeights:
    """Tracks which weights are whole on the GPU."""

    def __init__(self, parameters: Sequence[Parameter], config: BufferConfig, gpu: Timeline) -> None:
        self.config, self.gpu = config, gpu
        self.modules: dict[str, dict[str, list[Parameter]]] = defaultdict(lambda: defaultdict(list))
        """Module of the timeline -> sub-module -> its parameters."""
        for parameter in parameters:
            self.modules[parameter.module][parameter.name.rpartition(".")[0]].append(parameter)
        self.subs = {sub: held for subs in self.modules.values() for sub, held in subs.items()}
        self.persistent = self._persistent(parameters)
        self.available: dict[str, Parameter] = {}
        self.n_available = 0
        self.n_calls = self.n_gathered = 0
        """Collectives so far, and the elements of weights in them."""
        self.trace: list[str] = []
        """Sub-modules in the order of one micro-step."""
        self.complete = False
        self.step = 0
        self.queue: deque[tuple[Parameter, int]] = deque()
        self.fetched_for: dict[str, int] = {}
        """Parameter -> the last step that it has been fetched for."""
        self.in_flight: dict[str, _AllGather] = {}

    def _persistent(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """Return the small weights that stay gathered between steps (parameter_offload.py)."""
        found, total = [], 0
        for parameter in parameters:
            small = parameter.numel <= self.config.zero("stage3_param_persistence_threshold")
            if small and total + parameter.numel <= self.config.zero("stage3_model_persistence_threshold"):
                found.append(parameter)
                total += parameter.numel
        return found

    @property
    def _copies(self) -> bool:
        """False where a "gathered" weight is its only shard: one rank, not offloaded (pp:61, NoGatherHandle)."""
        return self.config.world_size > 1 or (self.config.offload_param != "none" and not self.config.one_memory)

    def nbytes(self, parameter: Parameter) -> int:
        """Return the bytes of a gathered weight."""
        shard = -(-parameter.numel // self.config.world_size)
        return self.config.weight * shard * self.config.world_size if self._copies else 0

    def enter(self, module: str) -> None:
        """Fetch what the module needs and prefetch what comes after it (ppc:353)."""
        for sub, parameters in self.modules[module].items():
            if not self.complete:
                self.trace.append(sub)
            for parameter in parameters:
                self._arrive(parameter.name)
            self._gather([parameter for parameter in parameters if parameter.name not in self.available])
            for parameter in parameters:
                self._arrive(parameter.name)
            if self.complete:
                self._prefetch(parameters)
            self.step += 1

    def leave(self, module: str) -> None:
        """Release what is not used again within stage3_max_reuse_distance elements (ppc:634, __params_to_release)."""
        persistent = {parameter.name for parameter in self.persistent} if self.complete else set()
        for sub, parameters in self.modules[module].items():
            if self.complete and self._used_soon(sub):
                continue
            for parameter in parameters:
                if parameter.name not in persistent and self.fetched_for.get(parameter.name, -1) <= self.step:
                    self._release(parameter)

    def end_micro_step(self) -> None:
        """Begin anew; the order of the first micro-step is the plan of all that follow (ppc:251, reset_step)."""
        if not self.complete:
            self.complete = True
            self._index()
        self.queue = deque(self.order)
        self.fetched_for = {}
        self.step = self.n_available = 0

    def release_all(self) -> None:
        """Release all weights, before an optimizer step and a checkpoint (ppc:537, release_and_reset_all)."""
        for call in list(self.in_flight.values()):
            for name in list(call.waiting):
                self._arrive(name)
        for parameter in list(self.available.values()):
            self._release(parameter)

    def gather_persistent(self) -> None:
        """Gather the persistent weights, after an optimizer step and a checkpoint (stage3.py:2835, _post_step)."""
        self._gather(self.persistent)
        for parameter in self.persistent:
            self._arrive(parameter.name)

    def _index(self) -> None:
        self.order = [(parameter, step) for step, sub in enumerate(self.trace) for parameter in self.subs[sub]]
        self.uses: dict[str, list[int]] = defaultdict(list)
        self.passed = [0]
        """Elements used before each step."""
        for step, sub in enumerate(self.trace):
            self.uses[sub].append(step)
            self.passed.append(self.passed[-1] + sum(held.numel for held in self.subs[sub]))

    def _used_soon(self, sub: str) -> bool:
        uses = self.uses[sub]
        index = bisect_left(uses, self.step)
        if index == len(uses):
            return False
        return self.passed[uses[index]] - self.passed[self.step] < int(self.config.zero("stage3_max_reuse_distance"))

    def _prefetch(self, current: Iterable[Parameter]) -> None:
        """Ask for up to another prefetch bucket, within stage3_max_live_parameters (ppc:451-487)."""
        for parameter in current:
            if self.fetched_for.get(parameter.name, -1) < self.step and self.queue:
                _, step = self.queue.popleft()
                self.fetched_for[parameter.name] = step
        room = min(
            self.config.zero("stage3_max_live_parameters") - self.n_available,
            self.config.zero("stage3_prefetch_bucket_size"),
        )
        wanted: dict[str, Parameter] = {}
        elements = 0
        while self.queue and elements < room:
            parameter, step = self.queue.popleft()
            name = parameter.name
            self.fetched_for[name] = max(self.fetched_for.get(name, -1), step)
            if name not in self.available and name not in wanted:
                wanted[name] = parameter
                elements += parameter.numel
        self._gather(list(wanted.values()))

    def _gather(self, parameters: Sequence[Parameter]) -> None:
        """Start to gather weights; over several ranks several share a flat buffer first (pp:1446)."""
        parameters = [parameter for parameter in parameters if parameter.name not in self.available]
        if not parameters:
            return
        for parameter in parameters:
            self.available[parameter.name] = parameter
            self.n_available += parameter.numel
            self.n_gathered += parameter.numel
        sequential = self.config.zero("stage3_allgather_sequential")
        self.n_calls += len(parameters) if sequential else 1
        if len(parameters) == 1 or self.config.world_size == 1 or sequential:
            for parameter in parameters:
                self.gpu.alloc(f"gathered {parameter.name}", CAUSE, self.nbytes(parameter))
            return
        call = _AllGather(f"flight of {parameters[0].name}", list(parameters), {held.name for held in parameters})
        self.gpu.alloc(call.key, CAUSE, sum(self.nbytes(parameter) for parameter in parameters))
        for parameter in parameters:
            self.in_flight[parameter.name] = call

    def _arrive(self, name: str) -> None:
        """Use a weight that is being gathered: all of its call get tensors of their own (pp:762, wait)."""
        call = self.in_flight.pop(name, None)
        if call is None:
            return
        if not call.arrived:
            call.arrived = True
            for parameter in call.parameters:
                self.gpu.alloc(f"gathered {parameter.name}", CAUSE, self.nbytes(parameter))
        call.waiting.discard(name)
        if not call.waiting:
            self.gpu.free(call.key)

    def _release(self, parameter: Parameter) -> None:
        if parameter.name in self.in_flight or self.available.pop(parameter.name, None) is None:
            return
        self.gpu.free(f"gathered {parameter.name}")
        self.n_available -= parameter.numel
