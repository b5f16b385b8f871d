"""The length of a run in optimizer steps, which only its data and tasks can tell."""

from genesis_ds.config import RunConfig
from genesis_ds.config.durations import given_in_epochs
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.training.tasks import RunTasks

DEFAULT_STEPS = 1000
"""Steps of a run that does not say how long it is."""


def length_in_steps(config: RunConfig) -> int:
    """Return the optimizer steps of a run whose length is not in epochs, which only its data can tell; else 0."""
    if config.max_epochs is not None:
        return 0
    if config.max_tokens is not None:
        return -(-config.max_tokens // (config.batch.global_batch_size * config.batch.seq_len))
    return config.max_steps or DEFAULT_STEPS


def run_length(config: RunConfig, tasks: RunTasks) -> tuple[int, float]:
    """Return the optimizer steps of the run, and those of an epoch of language modelling: 0 without that task.

    Raises UserError for epochs in a run without it.
    """
    in_epochs = [*(["max_epochs"] if config.max_epochs is not None else []), *given_in_epochs(config)]
    per_epoch = tasks.sequences_per_epoch
    if in_epochs and not per_epoch:
        raise UserError(f"{in_epochs[0]}: epochs are of the task lm, which this run leaves out; give steps")
    n_steps, sequences = length_in_steps(config), config.batch.global_batch_size
    if not per_epoch:
        return n_steps, 0.0
    if config.max_epochs is not None:
        last = tasks.mixture.position_of(LM, round(config.max_epochs * per_epoch))
        n_steps = max(1, -(-last // sequences))
    weights = tasks.mixture.stretches[-1].weights
    per_step = sequences * weights[LM] / sum(weights.values())
    return n_steps, per_epoch / per_step
