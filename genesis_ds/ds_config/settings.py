"""The part of a run's YAML that meets the ds_config."""

from dataclasses import dataclass
from typing import Literal

from genesis_ds.config import RunConfig

Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW as the run's YAML has it."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    implementation: Literal["auto", "cpu_adam", "torch"] = "auto"
    grokfast: bool = False
    master_rounding: Literal["none", "nearest"] = "none"


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

    @classmethod
    def of(cls, run: RunConfig, where: str) -> "RunSettings":
        """Return the settings of a run that was read from the file `where`."""
        adamw = run.optimizer
        optimizer = OptimizerSettings(
            lr=adamw.lr,
            betas=(adamw.betas[0], adamw.betas[1]),
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
            implementation=adamw.implementation,
            grokfast=adamw.grokfast.is_on,
            master_rounding=adamw.master_rounding,
        )
        return cls(
            where=where,
            micro_batch_size=run.batch.micro_batch_size,
            global_batch_size=run.batch.global_batch_size,
            gradient_clipping=adamw.gradient_clipping,
            optimizer=optimizer,
            precision=run.precision,
        )
