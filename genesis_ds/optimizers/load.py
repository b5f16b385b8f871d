"""The optimizer of a run: a built-in one by the registry, or a user's own by `extensions.optimizers`."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genesis_ds.config import OptimizerConfig, RunConfig
from genesis_ds.errors import UserError, nearest
from genesis_ds.extensions import import_class, load_extensions
from genesis_ds.optimizers.registry import (
    ADAMW,
    BLOCKS,
    COMPENSATION,
    GROKFAST_AVERAGE,
    OPTIMIZERS,
    STEP,
    WEIGHT,
    WEIGHT_AVERAGE,
)

SETTINGS = ("lr", "betas", "eps", "weight_decay")
"""Fields of OptimizerConfig that an optimizer gets where its constructor takes them."""
RESERVED = (WEIGHT, STEP, GROKFAST_AVERAGE, COMPENSATION, WEIGHT_AVERAGE)
"""Names with another meaning in a checkpoint."""
TRIAL_STEPS = 3
"""Of a run's optimizer, before anything is written: some of its state may come late."""


def optimizer_class(run: RunConfig) -> type[Optimizer]:
    """Return the class of the run's optimizer. Raises UserError for one of the user's own that cannot be had."""
    name = run.optimizer.name
    if name in OPTIMIZERS:
        return import_class(OPTIMIZERS[name].path)
    return _own_classes(run)[name]


def separates_blocks(run: RunConfig) -> bool:
    """Return whether the optimizer wants the blocks' matrices as a parameter group of their own, named BLOCKS."""
    name = run.optimizer.name
    return name in OPTIMIZERS and OPTIMIZERS[name].of_blocks is not None


def state_tensors(run: RunConfig, group: str = "") -> tuple[str, ...]:
    """Return the names of the tensors of a weight's shape that the optimizer's state keeps, without Grokfast's.

    group: the parameter group of the weight, for an optimizer that treats BLOCKS otherwise.
    """
    name = run.optimizer.name
    if name in OPTIMIZERS:
        entry = OPTIMIZERS[name]
        return entry.of_blocks if group == BLOCKS and entry.of_blocks is not None else entry.state_tensors
    own: tuple[str, ...] = optimizer_class(run).state_tensors  # type: ignore[attr-defined]
    return own


def make_optimizer(run: RunConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """Return the run's optimizer of parameter groups, with its settings and options."""
    optimizer = optimizer_class(run)
    takes = _keywords(optimizer)
    settings = {key: getattr(run.optimizer, key) for key in SETTINGS if takes is None or key in takes}
    return optimizer(groups, **settings, **run.optimizer.options)


def require_optimizer(run: RunConfig) -> None:
    """Import the user's own optimizers, and try the run's on small weights.

    Raises UserError where one cannot be had, does not take what the run gives, or keeps what a checkpoint does not.
    """
    for name, own in _own_classes(run).items():
        _require_state_tensors(f"extensions.optimizers.{name}: {run.extensions.optimizers[name]}", own)
    if run.optimizer.name == ADAMW:
        for option in run.optimizer.options:
            raise UserError(f"optimizer.options.{option}: {ADAMW} takes no options; leave it out")
        return
    _require_settings(run)
    if optimizer_class(run).step is Optimizer.step:
        raise UserError(f"optimizer.name: {run.optimizer.name} lacks step; torch.optim.Optimizer says what it is")
    weights = [nn.Parameter(torch.ones(6)) for _ in range(2)]  # flat, as under ZeRO
    group = {"name": "matrices", "params": weights, "parameters": ["a weight", "a head that no step uses"]}
    try:
        optimizer = make_optimizer(run, [group])
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"optimizer: {run.optimizer.name} does not take these settings and options: {type(error).__name__}: {error}"
        ) from error
    before = _settings(optimizer)
    kept = _attributes(optimizer)
    for _ in range(TRIAL_STEPS):
        weights[0].grad = torch.ones_like(weights[0])
        optimizer.step()
    _require_known_state(run, optimizer.state.get(weights[0], {}), weights[0])
    _require_nothing_else(run, optimizer, before | kept)


def _own_classes(run: RunConfig) -> dict[str, type[Optimizer]]:
    return load_extensions("optimizers", run.extensions.optimizers, Optimizer, OPTIMIZERS)


def _require_state_tensors(where: str, optimizer: type[Optimizer]) -> None:
    names = getattr(optimizer, "state_tensors", None)
    if not isinstance(names, tuple) or not all(isinstance(each, str) and each not in RESERVED for each in names):
        raise UserError(
            f"{where} has state_tensors {names!r}; give it the names of the tensors of a weight's shape in its state, "
            f'such as state_tensors = ("exp_avg",), and none of {", ".join(RESERVED)}'
        )


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    return {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}


def _attributes(optimizer: Optimizer) -> dict[str, str]:
    """Return what an optimizer keeps on itself, as text, without what torch's own class does."""
    torchs = vars(Optimizer([nn.Parameter(torch.ones(1))], {}))
    return {f"self.{key}": repr(value) for key, value in vars(optimizer).items() if key not in torchs}


def _require_nothing_else(run: RunConfig, optimizer: Optimizer, before: dict[str, Any]) -> None:
    """Raise UserError where an update changes what a checkpoint does not keep: a group, or state of no weight."""
    weights = optimizer.param_groups[0]["params"]
    elsewhere = [str(key) for key in optimizer.state if not any(key is weight for weight in weights)]
    now = _settings(optimizer) | _attributes(optimizer)
    changed = [key for key, value in now.items() if before.get(key) != value]
    if found := [*elsewhere, *changed]:
        raise UserError(
            f"optimizer.name: {run.optimizer.name} keeps {found[0]} outside of the weights' state, where a checkpoint "
            "does not keep it; keep it in state[weight], in tensors that state_tensors names"
        )


def _require_settings(run: RunConfig) -> None:
    """Raise UserError for a setting or an option that the constructor does not take."""
    name, options, takes = run.optimizer.name, run.optimizer.options, _keywords(optimizer_class(run))
    own = [key for key in takes or options if key not in SETTINGS]
    for key in options:
        if key in SETTINGS:
            raise UserError(f"optimizer.options.{key}: is a setting of its own; give optimizer.{key}")
        if key not in own:
            known = nearest(key, own) if own else "it takes none"
            raise UserError(f"optimizer.options.{key}: {name} does not take it; {known}")
    if takes is None:
        return
    if "lr" not in takes:
        raise UserError(f"optimizer.name: {name} takes no lr, which the schedule sets; give its constructor one")
    decays = run.optimizer.weight_decay_of or run.schedule.weight_decay_end_ratio != 1
    if decays and "weight_decay" not in takes:
        raise UserError(f"optimizer.name: {name} takes no weight_decay, which this run sets; leave that out")
    usual = OptimizerConfig()
    for key in SETTINGS:
        if key not in takes and getattr(run.optimizer, key) != getattr(usual, key):
            raise UserError(f"optimizer.{key}: {name} does not take it; leave it out")


def _require_known_state(run: RunConfig, state: Mapping[str, Any], weight: Tensor) -> None:
    """Raise UserError for what an update has left in the state that a checkpoint would not give back."""
    for key, value in state.items():
        if key == STEP and isinstance(value, Tensor) and value.dtype == torch.float32:
            continue
        like_weight = isinstance(value, Tensor) and (value.shape, value.dtype) == (weight.shape, weight.dtype)
        if key not in state_tensors(run) or not like_weight:
            raise UserError(
                f"optimizer.name: {run.optimizer.name} keeps {key} in its state; that may hold the tensors named in "
                f"state_tensors, of the weight's shape and dtype, and a float32 tensor {STEP} as torch's optimizers do"
            )


def _keywords(optimizer: type[Optimizer]) -> list[str] | None:
    """Return what the constructor takes besides the parameter groups; None where it takes any keyword."""
    _, *parameters = inspect.signature(optimizer).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]
