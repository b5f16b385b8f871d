"""A run's durations in optimizer steps, which only its data and tasks can tell."""

import dataclasses

from genesis_ds.config import RunConfig
from genesis_ds.config.durations import given_in_epochs, in_steps
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.training.tasks import RunTasks

DEFAULT_STEPS = 1000
"""Of a run that does not say how long it is."""


def with_lengths(run: RunConfig, training: RunTasks) -> RunConfig:
    """The run with max_steps and every duration in steps. Raises UserError for epochs in a run without their task."""
    in_epochs = [*(["max_epochs"] if run.max_epochs is not None else []), *given_in_epochs(run)]
    per_epoch = training.sequences_per_epoch
    if in_epochs and not per_epoch:
        raise UserError(f"{in_epochs[0]}: epochs are of the task lm, which this run leaves out; give steps")
    batch = run.batch
    n_steps = run.max_steps or DEFAULT_STEPS
    if run.max_tokens is not None:
        n_steps = -(-run.max_tokens // (batch.global_batch_size * batch.seq_len))
    if not per_epoch:
        return dataclasses.replace(run, max_steps=n_steps, max_tokens=None)
    if run.max_epochs is not None:
        last = training.mixture.position_of(LM, round(run.max_epochs * per_epoch))
        n_steps = max(1, -(-last // batch.global_batch_size))
    weights = training.mixture.stretches[-1].weights
    per_step = batch.global_batch_size * weights[LM] / sum(weights.values())
    return in_steps(dataclasses.replace(run, max_steps=n_steps, max_epochs=None, max_tokens=None), per_epoch / per_step)
