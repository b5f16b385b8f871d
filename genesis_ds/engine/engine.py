"""The engine: a model under DeepSpeed, trained one optimizer step at a time.

    engine = Engine.build(...)
    for task, batch in micro_batches:
        loss = ...engine.forward(task, batch)...
        engine.backward(loss)
    result = engine.step(used_heads)

Nothing outside this package touches DeepSpeed's engine.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from genesis_ds.config import OptimizerConfig
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.ds_config import Resolved
from genesis_ds.engine import internals, saved_state
from genesis_ds.engine.bf16_adam import round_masters
from genesis_ds.engine.compiled_blocks import CompiledBlocks, is_on
from genesis_ds.engine.distributed import add_over_ranks, raise_on_all_ranks
from genesis_ds.engine.heap import TRIMMED_FROM, TrimHeap, returning_freed_memory
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.optimizer_hooks import (
    TRUNK_GROUPS,
    CpuAdamSteps,
    FiniteUpdates,
    Grokfast,
    HeadUpdates,
    OptimizerHook,
    WeightAverage,
    register,
)
from genesis_ds.engine.parameter_slices import matrix_parts
from genesis_ds.engine.perpendicular import PerpendicularGradient
from genesis_ds.engine.profiled import labelled
from genesis_ds.engine.ranks import Ranks
from genesis_ds.engine.saved_state import SavedState
from genesis_ds.engine.step_meter import StepMeter
from genesis_ds.model.groups import in_groups
from genesis_ds.model.multitask import LM, MultiTaskModel, Outputs, build_model, keep_idle
from genesis_ds.model.norm import NORMS
from genesis_ds.model.own import trunk_of
from genesis_ds.optimizers.load import make_optimizer, separates_blocks
from genesis_ds.optimizers.muon import Muon
from genesis_ds.optimizers.registry import ADAMW, BLOCKS, COMPENSATION, N_AVERAGED, WEIGHT_AVERAGE
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.load import make_heads

ReadWeights = Mapping[str, Callable[[], Tensor]]
"""By a parameter's name, what gives its weights; in the same order on all ranks."""


@dataclass(frozen=True)
class StepResult:
    """What came of an optimizer step."""

    applied: bool
    """False where the gradient was not finite: weights, moments and schedule are as before."""
    learning_rate: float
    """The rate that the update used."""
    gradient_norm: float
    """Euclidean norm of the whole gradient before clipping; inf where it was not finite."""


class Engine:
    """A model, its optimizer and its schedule under DeepSpeed, on one rank."""

    def __init__(
        self,
        deepspeed_engine: DeepSpeedEngine,
        model: MultiTaskModel,
        *,
        run: ResolvedRun,
        ranks: Ranks,
        device: torch.device,
        compiled_blocks: CompiledBlocks | None,
    ) -> None:
        """Use `build`, which makes what it needs."""
        self.compiled_blocks = compiled_blocks
        self._deepspeed, self._run, self.model, self.ranks, self.device = deepspeed_engine, run, model, ranks, device
        self._idle: Tensor | None = None
        """What the last micro-batch's idle heads say (see MultiTaskModel), until its backward."""
        self.meter = StepMeter(deepspeed_engine, list(model.base.layers), ranks, device)
        self._finite_updates = FiniteUpdates(model)
        self._head_updates = HeadUpdates()
        given = run.config.optimizer.weight_average
        start = run.steps(given.start, "optimizer.weight_average.start")
        every = run.steps(given.every, "optimizer.weight_average.every")
        self._average = WeightAverage(given, self._head_updates, start=start, every=every) if given.is_on else None
        if run.ds_config.rounds_masters:
            round_masters(deepspeed_engine, run.ds_config.master_rounding, seed=run.config.seed, rank=ranks.rank)
        self._decays: list[float] = [group.get("weight_decay", 0.0) for group in self._groups]
        self._hooks = self._optimizer_hooks(run.config.optimizer)
        optimizer = internals.torch_optimizer(deepspeed_engine)
        register(self._hooks, optimizer)
        if isinstance(optimizer, Muon) and run.ds_config.zero_stage:
            optimizer.place(matrix_parts(deepspeed_engine, ranks.rank), add_over_ranks, device)

    @classmethod
    def build(
        cls,
        run: ResolvedRun,
        *,
        ranks: Ranks,
        device: torch.device,
        initial: ReadWeights = MappingProxyType({}),
    ) -> "Engine":
        """Return an engine around the run's freshly initialised model.

        The seed alone determines the weights: every stage, precision and number of ranks starts from the same.
        initial: the weights that do not start so.
        """
        import deepspeed

        internals.import_muon_uncompiled()
        torch.manual_seed(run.config.seed)
        compiles = is_on(run, device, ranks)
        with returning_freed_memory():
            model = _fresh_model(run)
            if compiles and run.ds_config.zero_stage == 3:
                deepspeed.utils.set_z3_leaf_modules(model, list({type(block) for block in model.base.layers}))
            for name, weight in initial.items():
                parameter = model.get_parameter(name)
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                    parameter.copy_(weight())
            adamw = run.config.optimizer.name == ADAMW
            groups = parameter_groups(model, run.config.optimizer.weight_decay_of, separates_blocks(run.config))
            with internals.sharing_buffers(), internals.starting_unstepped():
                wrapped, *_ = deepspeed.initialize(
                    model=model,
                    optimizer=None if adamw else partial(make_optimizer, run.config),
                    model_parameters=groups,
                    config=run.ds_config.config,
                    lr_scheduler=lambda optimizer: LambdaLR(optimizer, run.schedule.factor),
                )
        blocks = CompiledBlocks(model.base.layers, run.config.compile) if compiles else None
        return cls(wrapped, model, run=run, ranks=ranks, device=device, compiled_blocks=blocks)

    def _optimizer_hooks(self, config: OptimizerConfig) -> list[OptimizerHook]:
        """What is done around each update, in this order: the meter sees the gradient before it is changed."""
        n_parameters = sum(internals.whole_numel(parameter) for parameter in self.model.parameters())
        hooks: list[OptimizerHook] = [TrimHeap()] if n_parameters >= TRIMMED_FROM else []
        own_update = self._run.ds_config.rounds_masters
        if internals.is_cpu_adam(internals.torch_optimizer(self._deepspeed)) and not own_update:
            hooks.append(CpuAdamSteps())
        hooks += [self.meter, self._finite_updates, *filter(None, [self._average]), self._head_updates]
        if config.grokfast.is_on:
            hooks.append(Grokfast(config.grokfast))
        if config.perpendicular_gradient:
            hooks.append(PerpendicularGradient(self._deepspeed, self.ranks, self.device))
        return hooks

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return internals.torch_optimizer(self._deepspeed).param_groups

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 to 3."""
        return self._deepspeed.zero_optimization_stage()

    def output(self, task: str, *inputs: Tensor, **named: Any) -> Tensor:
        """Return what the head of a task makes of a batch's inputs; the shape is the task's (see MultiTaskModel)."""
        outputs: Outputs = self._deepspeed(task, *inputs, **named)
        return outputs.output

    def forward(self, task: str, batch: Batch) -> Tensor:
        """Return the same for a micro-batch of training, whose loss goes to `backward` next."""
        if self.compiled_blocks:
            self.compiled_blocks.begin_micro_step()
        outputs: Outputs = self._deepspeed(task, **batch.inputs)
        self._idle = outputs.idle
        return outputs.output

    def backward(self, loss: Tensor) -> Tensor:
        """Add the gradient of a micro-batch's loss to the step's.

        A loss that is not finite makes every gradient so, and `step` leaves the update out. Returns the norm of the
        loss's gradient with respect to the trunk's final hidden states, fp32 scalar; 0 if it has none.
        """
        self.model.trunk_gradient_norm = None
        loss, self._idle = keep_idle(loss, self._idle), None
        self._deepspeed.backward(loss * (1 + 0 * loss.detach()))
        if not self._deepspeed.is_gradient_accumulation_boundary():
            self._deepspeed.step()  # counts the micro-batch
        norm: Tensor | None = self.model.trunk_gradient_norm
        scale = self._deepspeed.gradient_accumulation_steps()
        return torch.zeros((), device=self.device) if norm is None else norm * scale

    def step(self, used_heads: Collection[str]) -> StepResult:
        """Update the weights after the step's last backward. Every rank calls it.

        used_heads: those of the step's micro-batches on all ranks (LM: the output layer); the others stay as they are.
        """
        optimizer = internals.torch_optimizer(self._deepspeed)
        if internals.is_bare(self._deepspeed):
            self._finite_updates.check(optimizer)
        self._head_updates.used = frozenset(used_heads)
        if self._average:
            self._average.step = self._deepspeed.global_steps
        if self._run.config.schedule.weight_decay_end_ratio != 1:
            factor = self._run.schedule.decay_factor(self._deepspeed.lr_scheduler.last_epoch)
            for group, decay in zip(self._groups, self._decays, strict=True):
                group["weight_decay"] = decay * factor
        learning_rate = self._deepspeed.get_lr()[0]
        self._deepspeed.step()
        if self._average:
            self._average.end_step(self._deepspeed.was_step_applied())
        norm = float(self._deepspeed.get_global_grad_norm())
        return StepResult(self._deepspeed.was_step_applied(), learning_rate, norm)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients. Not inference_mode: DeepSpeed's ZeRO-3 gathers cannot run under it."""
        self._deepspeed.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._deepspeed.train()

    @contextmanager
    def averaged(self) -> Iterator[bool]:
        """Have the average of the weights in their place while it lasts; yield whether there is one yet.

        Every rank calls it. Afterwards the weights are bit for bit as they were; not after an error, as to cast them
        takes all ranks, and one that has failed alone would wait for the others.
        """
        there_is_one = self._average is not None and self._average.n_averaged > 0
        if there_is_one:
            saved_state.swap_with_average(self._deepspeed)
        yield there_is_one
        if there_is_one:
            saved_state.swap_with_average(self._deepspeed)

    def logits_and_states(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, T, V] and normed final hidden states [B, T, D] of token ids [B, T], by one forward pass."""
        states: list[Tensor] = []
        hook = self.model.base.norm.register_forward_hook(lambda module, inputs, output: states.append(output))
        try:
            return self.output(LM, tokens), states[0]
        finally:
            hook.remove()

    def weights(self, chosen: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the model's name of every parameter, and the whole of it on the device for as long as it has its turn.

        chosen: the names of those that are wanted; None: all. Every rank goes through all of them. A tied matrix comes
        once.
        """
        import deepspeed

        for name, parameter in self.model.named_parameters():
            if chosen is not None and name not in chosen:
                continue
            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()

    def shapes(self) -> dict[str, Tensor]:
        """Return what `weights` will yield, as tensors without data."""
        parameters = self.model.named_parameters()
        return {name: torch.empty(internals.whole_shape(p), dtype=p.dtype, device="meta") for name, p in parameters}

    def state(self, directory: Path) -> Mapping[str, Any]:
        """Return what a checkpoint holds of this rank: file name -> state dict, which refers to the engine's tensors.

        Every rank calls it. An optimizer on NVMe has its files copied into the directory, which exists.
        """
        counters = {N_AVERAGED: self._average.n_averaged} if self._average else {}
        return internals.collect_state(self._deepspeed, directory, counters)

    def load(self, saved: SavedState) -> None:
        """Take up weights, optimizer, schedule and counters of a checkpoint, in a fresh engine. Every rank calls it.

        Learning rate, betas, decay and so on stay this engine's own, whatever the checkpoint's were. Raises UserError
        on all ranks when the checkpoint is of another model, or cannot be read.
        """
        dropped = [] if self._run.ds_config.master_rounding == "kahan" else [COMPENSATION]
        dropped += [] if self._average else [WEIGHT_AVERAGE]
        raise_on_all_ranks(lambda: saved_state.fill(self._deepspeed, saved, dropped))
        saved_state.finish_loading(self._deepspeed, saved)
        if self._average:
            self._average.take_up(saved)
        self.set_peak_rate(self._run.config.optimizer.lr)

    def set_peak_rate(self, peak: float) -> None:
        """Set the learning rate that the schedule has a share of, from the next update on. Every rank calls it."""
        scheduler = self._deepspeed.lr_scheduler
        factor = self._run.schedule.factor(scheduler.last_epoch)
        groups = self._deepspeed.optimizer.param_groups
        scheduler.base_lrs, scheduler._last_lr = [peak] * len(groups), [peak * factor] * len(groups)
        for group in groups:
            group["initial_lr"], group["lr"] = peak, peak * factor

    def labelled(self) -> AbstractContextManager[None]:
        """Within it a profile names what runs inside of DeepSpeed (see profiled.py)."""
        return labelled(self._deepspeed, self._hooks)

    def destroy(self) -> None:
        """Let go of everything, so that another engine can be built in the same memory."""
        internals.destroy(self._deepspeed)


def parameter_groups(
    model: MultiTaskModel, decays: Mapping[str, float] = MappingProxyType({}), separates_blocks: bool = False
) -> list[dict[str, Any]]:
    """Return the trunk's matrices; its norms' weights and biases, which do not decay; and a group for each task's head.

    separates_blocks: the matrices in its blocks are a group BLOCKS of their own, and `matrices` the others.

    Many matrices are several groups of one name, one after the other, as are the weights of a large head. Each has the
    names of its parameters, as a checkpoint of ZeRO-0 does not name them otherwise.

    decays: by a group's name, its weight decay where it has one of its own.
    """
    heads: dict[str, nn.Module] = {LM: model.base.output} if model.base.output is not None else {}
    heads |= model.heads.items()
    placed = {id(parameter) for head in heads.values() for parameter in head.parameters()}
    matrices: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in model.modules():
        new = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in placed]
        (norms if isinstance(module, NORMS) else matrices).extend(new)
        placed.update(map(id, new))
    of_blocks = {id(weight) for weight in model.base.layers.parameters() if separates_blocks and weight.ndim == 2}
    blocks = [weight for weight in matrices if id(weight) in of_blocks]
    kinds = {TRUNK_GROUPS[0]: [weight for weight in matrices if id(weight) not in of_blocks]}
    kinds |= {BLOCKS: blocks} if separates_blocks else {}
    kinds[TRUNK_GROUPS[1]] = norms
    kinds |= {task: list(head.parameters()) for task, head in heads.items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    own = {TRUNK_GROUPS[1]: 0.0} | dict(decays)
    if separates_blocks and TRUNK_GROUPS[0] in own:
        own.setdefault(BLOCKS, own[TRUNK_GROUPS[0]])
    return [
        {"name": kind, "params": params, "parameters": [names[parameter] for parameter in params]}
        | ({"weight_decay": own[kind]} if kind in own else {})
        for kind, weights in kinds.items()
        for params in in_groups(weights, internals.whole_numel)
    ]


def _fresh_model(run: ResolvedRun) -> MultiTaskModel:
    """Return the run's model with initial weights, partitioned under ZeRO-3, in its training dtype.

    Modules of a user's own draw their weights as they like. So that the seed alone determines them too, they draw
    them in fp32 on the CPU, whatever the run: the whole model is on the host of every rank for a moment.
    """
    import deepspeed

    heads = partial(make_heads, run.config, run.heads)
    build = partial(build_model, run.model, run.config.activation_checkpointing, heads, trunk_of(run.config))
    if run.config.extensions.model is None:
        with _construction(run.ds_config):
            return build()
    model = build().bfloat16() if run.ds_config.precision == "bf16" else build()
    if run.ds_config.zero_stage == 3:
        deepspeed.zero.Init(module=model, config_dict_or_path=run.ds_config.config)
    return model


def _construction(ds_config: Resolved) -> AbstractContextManager[Any]:
    """ZeRO-3 partitions each weight as it is made; otherwise the whole is made on the CPU in its training dtype."""
    import deepspeed

    if ds_config.zero_stage == 3:
        partitioning: AbstractContextManager[None] = deepspeed.zero.Init(config_dict_or_path=ds_config.config)
        return partitioning
    if ds_config.precision == "bf16":
        return _default_dtype(torch.bfloat16)
    return nullcontext()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)
