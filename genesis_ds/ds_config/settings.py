"""The part of a run's YAML that meets the ds_config."""

from dataclasses import dataclass
from typing import Literal

from genesis_ds.optimizers.registry import ADAMW

Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer as the run's YAML has it."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    implementation: Literal["auto", "cpu_adam", "torch"] = "auto"
    grokfast: bool = False
    weight_average: bool = False
    perpendicular_gradient: bool = False
    master_rounding: Literal["auto", "none", "stochastic", "kahan", "nearest"] = "auto"
    name: str = ADAMW


@dataclass(frozen=True)
class RunSettings:
    """The part of a run's YAML that meets the ds_config; messages name the keys as RunConfig nests them."""

    where: str
    """The YAML file, for messages."""
    micro_batch_size: int
    global_batch_size: int
    gradient_clipping: float
    optimizer: OptimizerSettings
    precision: Literal["auto", "bf16", "fp32"] = "auto"
