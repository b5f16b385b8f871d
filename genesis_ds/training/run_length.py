"""The length of a run in optimizer steps, which only its data and tasks can tell."""

from genesis_ds.config import RunConfig
from genesis_ds.config.durations import given_in_epochs
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.training.tasks import RunTasks

DEFAULT_STEPS = 1000
"""Steps of a run that does not say how long it is."""


def run_length(config: RunConfig, tasks: RunTasks) -> tuple[int, float]:
    """Return the optimizer steps of the run, and those of an epoch of language modelling: 0 without that task.

    Raises UserError for epochs in a run without it.
    """
    in_epochs = [*(["max_epochs"] if config.max_epochs is not None else []), *given_in_epochs(config)]
    per_epoch = tasks.sequences_per_epoch
    if in_epochs and not per_epoch:
        raise UserError(f"{in_epochs[0]}: epochs are of the task lm, which this run leaves out; give steps")
    batch = config.batch
    n_steps = config.max_steps or DEFAULT_STEPS
    if config.max_tokens is not None:
        n_steps = -(-config.max_tokens // (batch.global_batch_size * batch.seq_len))
    if not per_epoch:
        return n_steps, 0.0
    if config.max_epochs is not None:
        last = tasks.mixture.position_of(LM, round(config.max_epochs * per_epoch))
        n_steps = max(1, -(-last // batch.global_batch_size))
    weights = tasks.mixture.stretches[-1].weights
    per_step = batch.global_batch_size * weights[LM] / sum(weights.values())
    return n_steps, per_epoch / per_step
