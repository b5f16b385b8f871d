"""The optimizer, its schedule, and what follows a numerical fault."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from genesis_ds.config.checks import require, require_count, require_duration, require_positive, require_switched_on
from genesis_ds.config.durations import Duration
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import ADAMW


@dataclass(frozen=True)
class GrokfastConfig:
    """A gradient filter that may bring grokking forward: Grokfast-EMA, arXiv 2405.20233 (alpha 0.98, lamb 2)."""

    alpha: float = 0.98
    """Decay rate of the gradient's moving average."""
    lamb: float = 0.0
    """How many times the average is added to the gradient. 0: no filter; otherwise the average takes as much memory as
    one of Adam's two moments."""

    def __post_init__(self) -> None:
        require("optimizer.grokfast.alpha", self.alpha, 0 <= self.alpha < 1, "a number in [0, 1)")
        require("optimizer.grokfast.lamb", self.lamb, 0 <= self.lamb < math.inf, "zero or more")

    @property
    def is_on(self) -> bool:
        """Whether gradients are filtered."""
        return self.lamb > 0


@dataclass(frozen=True)
class WeightAverageConfig:
    """An average of the weights over the steps, kept beside them in the optimizer and judged beside them.

    It changes nothing that is trained. It takes as much memory as one of Adam's two moments.
    """

    kind: Literal["none", "ema", "swa"] = "none"
    """ema: exponential moving average. swa: the mean of all (stochastic weight averaging, arXiv 1803.05407)."""
    decay: float = 0.999
    """Of ema: what the average keeps of itself at each update."""
    start: Duration = 0
    """Steps (or "N epochs") whose weights it leaves out: with 8 it begins with the weights after step 9. ema may begin
    at once; swa is of the last part of a run."""
    every: Duration = 1
    """Steps (or "N epochs") between two updates of it."""

    def __post_init__(self) -> None:
        if not self.is_on:
            require_switched_on("optimizer.weight_average", self, "kind")
        if self.kind == "swa" and self.decay != WeightAverageConfig.decay:
            raise UserError("optimizer.weight_average.decay: is of kind ema, and kind is swa; leave it out")
        require("optimizer.weight_average.decay", self.decay, 0 < self.decay < 1, "a number above 0 and below 1")
        require_duration("optimizer.weight_average.start", self.start, zero="from the first step on")
        require_duration("optimizer.weight_average.every", self.every, zero=None)

    @property
    def is_on(self) -> bool:
        """Whether there is one."""
        return self.kind != "none"


@dataclass(frozen=True)
class OptimizerConfig:
    """What updates the weights. Weight decay does not apply to norms and biases.

    An optimizer gets those of lr, betas, eps and weight_decay that its constructor takes.
    """

    name: str = ADAMW
    """adamw, muon (for the blocks' matrices, with adamw for the rest), sgd (torch.optim.SGD), or one of
    extensions.optimizers."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the constructor takes besides, such as {momentum: 0.9}; adamw takes none."""
    lr: float = 1e-3
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay rates of Adam's first and second moment."""
    eps: float = 1e-8
    """Adam's denominator offset."""
    weight_decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate."""
    weight_decay_of: dict[str, float] = field(default_factory=dict)
    """That of one group of weights in its place: matrices (with the embedding), norms (0 otherwise), lm (the output
    layer), or a task with a head of its own; under muon also blocks, those of the matrices that muon updates."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    implementation: Literal["auto", "cpu_adam", "torch"] = "auto"
    """Of adamw. auto: DeepSpeedCPUAdam where a GPU run offloads it, otherwise torch's AdamW (fused on a GPU)."""
    master_rounding: Literal["auto", "none", "stochastic", "kahan", "nearest"] = "auto"
    """Of the bf16 master weights of a ds_config with bf16.bf16_master_weights_and_grads. stochastic, which is auto: up
    or down by chance, so that small updates are not lost. kahan: what rounding cuts off is kept, in 2 bytes more a
    parameter. nearest, DeepSpeed's way: small updates are lost, and with them most of what small rates would learn.
    none is auto, as runs of before have it."""
    grokfast: GrokfastConfig = field(default_factory=GrokfastConfig)
    """Grokfast, off unless lamb is given."""
    weight_average: WeightAverageConfig = field(default_factory=WeightAverageConfig)
    """An average of the weights, off unless its kind is given."""
    perpendicular_gradient: bool = False
    """Take from the gradient what only scales the weights (arXiv 2501.04697)."""

    def __post_init__(self) -> None:
        require("optimizer.lr", self.lr, 0 < self.lr < math.inf, "a positive number")
        in_range = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require("optimizer.betas", self.betas, in_range, "two numbers in [0, 1)")
        require("optimizer.eps", self.eps, 0 < self.eps < math.inf, "a positive number")
        require("optimizer.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "zero or more")
        for group, decay in self.weight_decay_of.items():
            require(f"optimizer.weight_decay_of.{group}", decay, 0 <= decay < math.inf, "zero or more")
        clips = 0 <= self.gradient_clipping < math.inf
        require("optimizer.gradient_clipping", self.gradient_clipping, clips, "zero or more")
        if self.name != ADAMW:
            of_adamw = f"auto where optimizer.name is not {ADAMW}"
            require("optimizer.implementation", self.implementation, self.implementation == "auto", of_adamw)

    @property
    def n_averages(self) -> int:
        """How many averages are kept of each weight beside the optimizer's own tensors, in their dtype and shape."""
        return self.grokfast.is_on + self.weight_average.is_on


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the optimizer steps."""

    kind: Literal["cosine", "constant", "plateau"] = "cosine"
    """Shape after the warm-up. plateau: constant, until validation stalls; then it falls."""
    warmup_steps: Duration = 100
    """Steps (or "N epochs") of linear rise from 0 to the peak."""
    min_lr_ratio: float = 0.1
    """Rate at which cosine ends and below which plateau does not fall, as a share of the peak."""
    factor: float = 0.5
    """What plateau multiplies the rate by, each time that validation stalls."""
    weight_decay_end_ratio: float = 1.0
    """Weight decay at the last step as a share of that at the first; it changes evenly from step to step."""
    patience: int = 10
    """So many evaluations in a row (those of evaluation.every, after the warm-up) without a new best are a stall."""

    def __post_init__(self) -> None:
        require_duration("schedule.warmup_steps", self.warmup_steps, zero="without")
        require("schedule.min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "a number from 0 to 1")
        require("schedule.factor", self.factor, 0 < self.factor < 1, "a number above 0 and below 1")
        ratio = self.weight_decay_end_ratio
        require("schedule.weight_decay_end_ratio", ratio, 0 <= ratio < math.inf, "zero or more")
        require_positive("schedule.patience", self.patience)


@dataclass(frozen=True)
class FaultsConfig:
    """What follows when a loss or a gradient is not finite. The step has no update then: the weights stay."""

    max_skipped_in_a_row: int = 5
    """So many such steps in a row stop the run, with a diagnosis and exit code 3."""
    max_rewinds: int = 0
    """How often the run goes back to its last checkpoint instead, and on from there without the data of those steps."""

    def __post_init__(self) -> None:
        require_positive("faults.max_skipped_in_a_row", self.max_skipped_in_a_row)
        require_count("faults.max_rewinds", self.max_rewinds)
