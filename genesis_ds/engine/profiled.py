"""The parts of a step that run inside of DeepSpeed, with names that a profile shows.

They are members of DeepSpeed that its documentation does not promise (members.py); without one, a profile counts its
time as the backward pass's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch.profiler import record_function

from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.optimizer_hooks import OptimizerHook

GATHER, REDUCE, HOOKS = "gather", "reduce", "hooks"
"""Fetching and releasing weights under ZeRO-3; averaging gradients over ranks and moving them to the host; what is done
around the update."""


@contextmanager
def labelled(engine: DeepSpeedEngine, hooks: Sequence[OptimizerHook]) -> Iterator[None]:
    """Within it a profile has ranges named GATHER, REDUCE and HOOKS."""
    with ExitStack() as restoring:
        for owner, name, label in _calls(engine, hooks):
            if hasattr(owner, name):
                setattr(owner, name, _labelled(getattr(owner, name), label))
                restoring.callback(delattr, owner, name)
        yield


def _calls(engine: DeepSpeedEngine, hooks: Sequence[OptimizerHook]) -> Iterator[tuple[Any, str, str]]:
    """Yield object, method and label."""
    yield engine, "allreduce_gradients", REDUCE
    for name in ("process_gradients", "reduce_ready_partitions_and_remove_grads"):
        yield engine.optimizer, name, REDUCE
    if engine.zero_optimization_stage() == 3:
        coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
        for name in ("fetch_sub_module", "release_sub_module"):
            yield coordinator, name, GATHER
    for hook in hooks:
        for name in ("before", "after"):
            yield hook, name, HOOKS


def _labelled(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with record_function(label):
            return function(*arguments, **named)

    return call
