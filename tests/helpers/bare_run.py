"""An engine made from a configuration alone: no run directory, hooks or checkpoints."""

from typing import Any

from genesis_ds import ds_config
from genesis_ds.config import RunConfig
from genesis_ds.config.resolve import SizedRun, resolve_steps, run_settings
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import LM
from genesis_ds.training.preparation import prepare_operations


def on_one_cpu(config: RunConfig, given: dict[str, Any]) -> ds_config.Resolved:
    """Return what DeepSpeed gets of a ds_config on one rank of a CPU that can build DeepSpeedCPUAdam."""
    return ds_config.resolve(
        given,
        where="the bench",
        run=run_settings(config, "the bench"),
        world_size=1,
        accelerator="cpu",
        cpu_adam_available=True,
    )


def lm_engine(config: RunConfig, resolved: ds_config.Resolved, ranks: Ranks) -> Engine:
    """Return the engine of a run of language modelling alone, whose configuration has its sizes and max_steps."""
    sized = SizedRun(config, fit_vocabulary(config), resolved, tasks=(LM,), heads=())
    prepare_operations(resolved)
    run = resolve_steps(sized, n_steps=config.max_steps or 1, steps_per_epoch=1.0)
    return Engine.build(run, ranks=ranks, device=distributed.device(ranks))
