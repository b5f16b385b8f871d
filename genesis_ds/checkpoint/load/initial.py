"""The weights that a new run begins with, from files (`init_from`)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models.stored_model import HEADS, StoredModel
from genesis_ds.config import ModelShape
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import run_parameters

FREE = ("preset", "init", "attention", "fp32_residual", "max_seq_len")
"""Fields in which the run's model may differ from the files': they shape no weight and change logits by rounding."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a new run takes from files, each read when it is called for."""

    read: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    """Name of a weight in MultiTaskModel -> what reads it."""
    notices: list[str] = field(default_factory=list)


def initial_weights(run: ResolvedRun, tokenizer: str | None, trust: bool) -> InitialWeights:
    """Return the weights that `init_from` has for the run: the whole trunk, and those heads of its tasks it has.

    tokenizer: the fingerprint of the run's tokenizer. trust: as in safe_load. Raises UserError where the files hold
    another trunk.
    """
    wanted = run_parameters(run)
    try:
        stored = open_model(Path(str(run.config.init_from)), run.model.n_heads, trust)
        _require_same(stored, run, tokenizer)
        stored.require([weight for weight in wanted if not weight.name.startswith(HEADS)])
    except UserError as error:
        raise UserError(f"init_from: {error}") from error
    tasks = run.heads
    taken: list[str] = []
    anew: list[str] = []
    for task in tasks:
        head = [weight for weight in wanted if weight.name.startswith(f"{HEADS}{task}.")]
        there = all(stored.head_shapes.get(weight.name) == weight.shape for weight in head)
        (taken if there else anew).append(task)
    notices = [f"weights of {stored.tensors.where}" + (f", with the heads of {', '.join(taken)}" if taken else "")]
    notices += stored.notices
    if anew:
        notices.append(f"the heads of {', '.join(anew)} begin anew: none of their shape is there")
    if unused := [task for task in stored.tasks if task not in tasks]:
        notices.append(f"not taken: the heads of {', '.join(unused)}, which are no tasks of this run")
    skipped = tuple(f"{HEADS}{task}." for task in anew)
    names = [weight.name for weight in wanted if not weight.name.startswith(skipped)]
    return InitialWeights({name: partial(stored.tensors.read, name) for name in names}, notices)


def _require_same(stored: StoredModel, run: ResolvedRun, tokenizer: str | None) -> None:
    if stored.own != run.config.extensions.model:
        raise UserError(
            f"{stored.tensors.where}: a model of {stored.kind}, and this run's is of "
            f"{run.config.extensions.model or 'the decoder'}; give the run the same extensions.model"
        )
    theirs, ours = _in_common(stored.config), _in_common(run.model)
    if differing := [key for key in ours if theirs[key] != ours[key]]:
        raise UserError(
            f"{stored.tensors.where}: its model has {_listed(theirs, differing)}; this run's has "
            f"{_listed(ours, differing)}; give the run the model's values"
        )
    if tokenizer:
        stored.require_tokenizer(tokenizer, "this run")


def _in_common(model: ModelShape) -> dict[str, Any]:
    values = dataclasses.asdict(dataclasses.replace(model, n_kv_heads=model.kv_heads))
    return {key: value for key, value in values.items() if key not in FREE}


def _listed(values: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {values[key]}" for key in keys)
