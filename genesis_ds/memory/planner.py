"""The memory plan of a run: the model's activations and DeepSpeed's buffers played through two optimizer steps."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from genesis_ds.config import durations
from genesis_ds.config.resolve import SizedRun
from genesis_ds.memory.activations.micro_step import keeps_within_budget, micro_step
from genesis_ds.memory.activations.repeat import traced_depth
from genesis_ds.memory.activations.teacher import teacher_memory
from genesis_ds.memory.activations.trace import MicroStep
from genesis_ds.memory.deepspeed.stages import BufferConfig, DeepSpeedBuffers, deepspeed_buffers
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step, Timeline
from genesis_ds.memory.machine.allocator import reserved_by_phase, round_512
from genesis_ds.memory.machine.hardware import Hardware
from genesis_ds.memory.plan import Device, DevicePlan, Plan
from genesis_ds.memory.shapes import Parameter, run_parameters
from genesis_ds.optimizers.load import separates_blocks, state_tensors
from genesis_ds.optimizers.registry import ADAMW, BLOCKS
from genesis_ds.tasks.load import meta_heads, reads_tokens

TEACHER = "teacher"
"""What the memory of `distill` is counted under."""
PHASES = ("init", "forward", "backward", "step", "save")


@dataclass(frozen=True)
class AllocatorSettings:
    """What a plan depends on besides the run, its ds_config and the machine."""

    exact_pinning: bool = False
    """Pinned host memory takes what is asked for: DS_PIN_MEMORY_BACKEND=native; otherwise the next power of two."""
    expandable_segments: bool = False
    """PYTORCH_ALLOC_CONF=expandable_segments:True."""

    @classmethod
    def from_environment(cls) -> "AllocatorSettings":
        """Those that this process will run under, so that a run which follows the advice is planned with it."""
        conf = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
        exact_pinning = os.environ.get("DS_PIN_MEMORY_BACKEND") == "native"
        return cls(exact_pinning, expandable_segments="expandable_segments:true" in conf.lower())


def make_plan(run: SizedRun, hardware: Hardware, settings: AllocatorSettings) -> Plan:
    """What one rank needs on its GPU and on its host, with the teacher of a run that has one where it is computed."""
    if not run.teachers:
        return _make_plan(run, hardware, settings, None)
    wanted = run.config.distill.device
    if hardware.has_gpu and wanted != "cpu":
        plan = _make_plan(run, hardware, settings, "gpu")
        if plan.fits or wanted == "cuda":
            return plan
    return _make_plan(run, hardware, settings, "host")


def _make_plan(run: SizedRun, hardware: Hardware, settings: AllocatorSettings, teacher: Device | None) -> Plan:
    """What one rank needs on its GPU and on its host, the teacher's part on one of them.

    Played are an optimizer step of the run's first task (language modelling, where it is one), which creates the
    optimizer's state; one of its second; and one of the first again, with all buffers there. DeepSpeed's buffers do
    not depend on the task, and a micro-step leaves nothing else behind, so these bound any order of tasks within a
    step. The second task stands for all that are built in, on verses: they differ in their heads alone, and coherence,
    the first of them, has the largest. A task with logits of its own and a user's own tasks are played as well.
    """
    memory = _Memory(hardware)
    micro_steps = min(2, run.ds_config.gradient_accumulation_steps)  # nothing changes after the second
    of_teacher = _Teacher(run, teacher, memory) if teacher else None
    states = _states(run, hardware, settings, memory, micro_steps)
    kinds = [micro_step(run, task, gpu=hardware.has_gpu) for task in _played(run)]
    if run.config.extensions.model:  # made whole on the host, in fp32
        states.transient(memory.host, "initialisation copies", 4 * sum(weight.numel for weight in states.parameters))
    states.init()
    memory.start("forward")
    memory.gpu.alloc("kept by the model", "activations", kinds[0].kept_bytes)
    for number, kind in enumerate(order := (*kinds, kinds[0])):
        if run.config.checkpoint.background and number == len(order) - 1:
            memory.host.alloc("background copy", "saving", states.checkpoint_bytes())  # training goes on beside it
        for index in range(micro_steps):
            with of_teacher.asked() if of_teacher and kind is kinds[0] else nullcontext():
                _play(kind.events, states, memory)
            states.end_backward(last_micro_step=index == micro_steps - 1)
        memory.start("step")
        states.step()
    memory.start("save")
    states.save()
    return _plan(run, hardware, settings, memory=memory, kinds=kinds, teacher=teacher)


def _played(run: SizedRun) -> list[str]:
    config = run.config
    more = [task for task in run.tasks[2:] if task in config.extensions.tasks or reads_tokens(config, task)]
    return [*run.tasks[:2], *more]


def states_at_least(run: SizedRun, hardware: Hardware) -> int:
    """Return a lower bound of the weights and moments that a rank holds: on the GPU, or on the host without one."""
    config, world_size = run.ds_config, hardware.world_size
    on_device = "none" if hardware.has_gpu else "cpu"
    weight = 2 if config.precision == "bf16" else 4
    moment = 4 if hardware.has_gpu else weight
    kept = states = 0.0
    if config.offload_param in ("none", on_device):
        kept += weight / (world_size if config.zero_stage == 3 else 1)
    if config.offload_optimizer in ("none", on_device) and config.zero_stage:
        kept += moment * run.config.optimizer.n_averages / world_size
        states = moment / world_size
    of_each = [(each.numel, len(state_tensors(run.config, each.group))) for each in run_parameters(run)]
    return int(sum(numel * (kept + states * number) for numel, number in of_each))


def gpu_at_least(run: SizedRun, hardware: Hardware) -> int:
    """Return a lower bound of what tensors hold on the GPU at the peak, without playing DeepSpeed's buffers.

    The weights and moments that stay there, and activations extrapolated in depth from two shallow models.
    """
    return states_at_least(run, hardware) + _activation_peak(run)


def _activation_peak(run: SizedRun) -> int:
    """Return the peak of the activations on the GPU, which is affine in depth, from two shallow models."""
    period, n_layers = run.config.activation_checkpointing.every, run.model.n_layers
    depth = traced_depth(n_layers, period)
    if n_layers <= depth + period:
        return _peak_at(run, n_layers)
    shallow, deeper = _peak_at(run, depth), _peak_at(run, depth + period)
    return shallow + (deeper - shallow) * ((n_layers - depth) // period)


def _peak_at(run: SizedRun, n_layers: int) -> int:
    shallow = dataclasses.replace(run, model=dataclasses.replace(run.model, n_layers=n_layers))
    timeline = Timeline()
    for event in micro_step(shallow, run.tasks[0], gpu=True).events:
        if isinstance(event, Alloc) and event.device == "gpu":
            timeline.alloc(event.key, event.cause, event.nbytes)
        elif isinstance(event, Free):
            timeline.free(event.key)
    return timeline.peak().nbytes


class _Memory:
    """The timelines of a rank's two devices. Without a GPU both are parts of the host's."""

    def __init__(self, hardware: Hardware) -> None:
        self.total_host = Timeline()
        separate = hardware.has_gpu
        self.gpu = Timeline(round_512) if separate else self.total_host.view("gpu/")
        self.host = self.total_host if separate else self.total_host.view("host/")

    def start(self, phase: str) -> None:
        self.gpu.start(phase)
        self.host.start(phase)


class _Teacher:
    """The teacher's part: what it holds all the time, and during a micro-step of language modelling."""

    def __init__(self, run: SizedRun, place: Device, memory: _Memory) -> None:
        self.holds, self.memory = teacher_memory(run, place), memory
        self.timeline = memory.gpu if place == "gpu" else memory.host
        memory.host.alloc("teacher as read", TEACHER, self.holds.as_read)
        if place == "gpu":
            memory.gpu.alloc("teacher", TEACHER, self.holds.weights)
            memory.host.free("teacher as read")

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Before a micro-step it is evaluated; what it has said on the host stays there until the end."""
        self.memory.start("forward")
        self.timeline.alloc("evaluation of the teacher", TEACHER, self.holds.evaluation)
        self.timeline.free("evaluation of the teacher")
        if self.timeline is self.memory.host:
            self.timeline.alloc("what the teacher has said", TEACHER, self.holds.probabilities)
        yield
        self.memory.host.free("what the teacher has said")


def _states(
    run: SizedRun,
    hardware: Hardware,
    settings: AllocatorSettings,
    memory: _Memory,
    micro_steps: int,
) -> DeepSpeedBuffers:
    config = BufferConfig(
        ds_config=run.ds_config.config | {"gradient_accumulation_steps": micro_steps},
        world_size=hardware.world_size,
        implementation=run.ds_config.optimizer_implementation,
        grokfast=run.config.optimizer.grokfast.is_on,
        weight_average=run.config.optimizer.weight_average.is_on,
        compensates=run.ds_config.master_rounding == "kahan",
        accelerator="cuda" if hardware.has_gpu else "cpu",
        exact_pinning=settings.exact_pinning,
        gpu_capacity=hardware.usable_gpu_bytes - hardware.gpu_overhead_bytes if hardware.has_gpu else None,
        n_state_tensors=len(state_tensors(run.config)),
        n_of_blocks=len(state_tensors(run.config, BLOCKS)) if separates_blocks(run.config) else None,
        copies_weights=run.config.optimizer.name != ADAMW and bool(durations.steps(run.config.trajectory.every, 1.0)),
    )
    return deepspeed_buffers(run_parameters(run), config, memory.gpu, memory.host)


def _play(events: Sequence[Step | str], states: DeepSpeedBuffers, memory: _Memory) -> None:
    """One forward and backward. The Free after a Ready is autograd's of that gradient, which the engine may keep."""
    by_name = {parameter.name: parameter for parameter in states.parameters}
    holder: dict[str, Timeline] = {}
    handed_over: list[Parameter] = []
    for event in events:
        match event:
            case Alloc():
                holder[event.key] = timeline = memory.gpu if event.device == "gpu" else memory.host
                timeline.alloc(event.key, event.cause, event.nbytes)
            case Free():
                holder[event.key].free(event.key)
                while handed_over:
                    states.keep(handed_over.pop())
            case Ready():
                states.gradient(by_name[event.parameter])
                handed_over.append(by_name[event.parameter])
            case Enter():
                states.enter(event.module)
            case Leave():
                states.leave(event.module)
            case str():
                memory.start(event)


def _plan(
    run: SizedRun,
    hardware: Hardware,
    settings: AllocatorSettings,
    *,
    memory: _Memory,
    kinds: Sequence[MicroStep],
    teacher: Device | None,
) -> Plan:
    model, batch, checkpointing = run.model, run.config.batch, run.config.activation_checkpointing
    steps = run.ds_config.gradient_accumulation_steps
    every = f", every {checkpointing.every}" if checkpointing.every > 1 else ""
    masked = ", each also masked," if run.config.masking.loss_weight else ""
    to_host = " offloaded to the host" if checkpointing.offload else ""
    loss = f", the loss {checkpointing.loss_chunk} positions at a time" if checkpointing.loss_chunk else ""
    heads = meta_heads(run.config, run.heads)
    of_heads = f", heads for {', '.join(heads)}" if heads else ""
    distilled = f"; distilled from {len(run.teachers)} on the {teacher}" if teacher else ""
    own = run.config.extensions.model
    problems = dict.fromkeys(kind.problem for kind in kinds if kind.problem)
    kept = run.config.compile.activation_memory_budget
    budget, unused = "", list[str]()
    if keeps_within_budget(run, hardware.has_gpu):
        budget = f", of compiled blocks all but {kept:g} of the activations"
    elif kept < 1:
        unused = [
            f"compile.activation_memory_budget: {kept:g} is not in this plan: it is for compiled blocks of the "
            "decoder, with activation_checkpointing.mode none"
        ]
    return Plan(
        parameters=sum(parameter.numel for parameter in run_parameters(run)),
        model=f"{model.n_layers} layers x {model.dim}, {own or model.norm}, vocabulary {model.vocab_size}{of_heads}",
        run=f"ZeRO-{run.ds_config.zero_stage} {run.ds_config.precision}, {run.ds_config.placement}; "
        f"{batch.micro_batch_size} x {batch.seq_len} "
        f"tokens{masked} x {steps} accumulation; "
        f"recomputed: {checkpointing.mode}{every}{to_host}{budget}{loss}{distilled}",
        hardware=hardware,
        gpu=_gpu_plan(memory.gpu, hardware, settings),
        host=_host_plan(memory.total_host, hardware),
        notes=[f"activations are not counted, weights are: a trace of the model ends with {why}" for why in problems]
        + unused
        + ["the time that the teacher takes is in no predicted speed"] * bool(teacher),
        teacher=teacher,
        is_whole=not problems,
    )


def _gpu_plan(timeline: Timeline, hardware: Hardware, settings: AllocatorSettings) -> DevicePlan:
    if not hardware.has_gpu:
        return DevicePlan(0, 0, 0, 0, "init", {}, {}, [])
    overhead = hardware.gpu_overhead_bytes
    capacity = hardware.usable_gpu_bytes - overhead
    reserved = reserved_by_phase(timeline.log, settings.expandable_segments, capacity)
    phase = max(reserved, key=lambda name: reserved[name])
    peak = timeline.peak(phase)
    causes = peak.breakdown | {"unused segments": reserved[phase] - peak.nbytes, "outside torch": overhead}
    return DevicePlan(
        capacity_bytes=hardware.gpu_bytes,
        usable_bytes=hardware.usable_gpu_bytes,
        allocated_peak_bytes=timeline.peak().nbytes,
        peak_bytes=reserved[phase] + overhead,
        phase=phase,
        breakdown=causes,
        phases={name: reserved[name] + overhead for name in PHASES if name in reserved},
        curve=_curve(timeline),
    )


def _host_plan(timeline: Timeline, hardware: Hardware) -> DevicePlan:
    process = hardware.process_bytes
    peak = timeline.peak()
    return DevicePlan(
        capacity_bytes=hardware.host_bytes,
        usable_bytes=hardware.usable_host_bytes,
        allocated_peak_bytes=peak.nbytes,
        peak_bytes=peak.nbytes + process,
        phase=peak.phase,
        breakdown=peak.breakdown | {"Python and its libraries": process},
        phases={name: timeline.peak(name).nbytes + process for name in PHASES},
        curve=_curve(timeline),
    )


def _curve(timeline: Timeline) -> list[tuple[str, int]]:
    """(phase, bytes held) at the start of each phase and after each event, at the first pass through each phase."""
    first: dict[str, list[tuple[str, int]]] = {}
    total, current = 0, ""
    for phase, _, change in timeline.log:
        if phase != current:
            current, is_first = phase, phase not in first
            if is_first:
                first[phase] = [(phase, total)]
        total += change
        if is_first:
            first[phase].append((phase, total))
    return [point for name in PHASES if name in first for point in first[name]]
