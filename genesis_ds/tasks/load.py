"""The classes of a run's tasks: the built-in ones by the registry, a user's own by `extensions.tasks`."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from genesis_ds.config import ModelShape, RunConfig, VerseTasksConfig
from genesis_ds.config.resolve import SizedRun
from genesis_ds.ds_config import Resolved
from genesis_ds.errors import Unavailable, UserError, nearest
from genesis_ds.extensions import import_class, load_extensions, require_classmethod
from genesis_ds.model.multitask import LM, TokenHead
from genesis_ds.model.own import require_documents
from genesis_ds.optimizers.load import separates_blocks
from genesis_ds.optimizers.registry import BLOCKS
from genesis_ds.tasks.base import Task
from genesis_ds.tasks.registry import DEFAULT_WEIGHTS, IN_ARITHMETIC, TASKS

RESERVED = ("matrices", "norms", "blocks", "states")
"""Names with another meaning: parameter groups, and the model's call for hidden states."""


def weights(run: RunConfig) -> dict[str, float]:
    """Return the weight of each task that the run trains, or would train if its data allow it, in a fixed order.

    Raises UserError for an unknown name.
    """
    given, known = run.tasks or DEFAULT_WEIGHTS, [*TASKS, *run.extensions.tasks]
    for name in given:
        if name not in known:
            raise UserError(f"tasks.{name}: no task is named so; {nearest(name, known)}")
    return {name: given[name] for name in known if given.get(name)}


def trained(run: RunConfig) -> tuple[str, ...]:
    """Return the names of the tasks that the run trains, or would train if its data allow it."""
    return tuple(name for name in weights(run) if _suits_model(run, name))


def sized_run(
    config: RunConfig, model: ModelShape, ds_config: Resolved, teachers: tuple[ModelShape, ...] = ()
) -> SizedRun:
    """Return the run with all the tasks that it would train if its data allow it, of a model whose sizes are known."""
    tasks = trained(config)
    return SizedRun(config, model, ds_config, tasks=tasks, heads=tuple(meta_heads(config, tasks)), teachers=teachers)


def require_suited_model(run: RunConfig, name: str) -> None:
    """Raise Unavailable where a task needs more of the run's model than it has: a head may read documents."""
    if meta_heads(run, [name]) and not reads_tokens(run, name):
        require_documents(run)


def reads_tokens(run: RunConfig, name: str) -> bool:
    """Return whether a task has a head of its own on the states of tokens, which the trunk's output layer reads."""
    return isinstance(meta_heads(run, [name]).get(name), TokenHead)


def _suits_model(run: RunConfig, name: str) -> bool:
    try:
        require_suited_model(run, name)
    except Unavailable:
        return False
    return True


def task_class(run: RunConfig, name: str) -> type[Task]:
    """Return the class of a task. Raises UserError where a user's own cannot be had."""
    if name in TASKS:
        in_arithmetic = IN_ARITHMETIC if run.arithmetic.modulus else {}
        return import_class(in_arithmetic.get(name, TASKS[name].path))
    if name not in run.extensions.tasks:
        raise UserError(f"extensions.tasks.{name}: this run has a head for the task {name}; give its module:Class")
    return _own_classes(run)[name]


def require_tasks(run: RunConfig) -> None:
    """Import the user's own tasks.

    Raises UserError for one that cannot be had or has no weight, and for an unknown name.
    """
    for name, task in _own_classes(run).items():
        where = f"extensions.tasks.{name}"
        if not name.isidentifier() or name in RESERVED or hasattr(nn.ModuleDict(), name):
            raise UserError(f"{where}: {name} is not allowed as a name; give letters, digits and _, no reserved word")
        if (given := getattr(task, "name", None)) != name:
            raise UserError(f"{where}: {run.extensions.tasks[name]} has the name {given!r}; give it name = {name!r}")
        if name not in run.tasks:
            raise UserError(f"{where}: has no weight, so is not trained; give tasks.{name} a weight, 0 to leave it out")
        for method in ("build", "head"):
            require_classmethod(where, task, method)
        _require_head(where, task, run)
    if decays := run.optimizer.weight_decay_of:
        blocks = (BLOCKS,) if separates_blocks(run) else ()
        groups = ("matrices", "norms", *blocks, LM, *meta_heads(run, trained(run)))
        for name in decays.keys() - groups:
            raise UserError(f"optimizer.weight_decay_of.{name}: no weights are named so; {nearest(name, groups)}")


def _require_head(where: str, task: type[Task], run: RunConfig) -> None:
    """Raise UserError for a head that keeps what a checkpoint does not, or cannot be idle."""
    with torch.random.fork_rng(devices=[]):
        head = task.head(run.model.dim, run.verse_tasks)
        if head is None:
            return
        kept = {name for name, _ in head.named_parameters(remove_duplicate=False)}
        if buffers := sorted(head.state_dict().keys() - kept):
            raise UserError(
                f"{where}: the head keeps the buffer {buffers[0]}, which checkpoints do not hold; leave it out"
            )
        state, examples = torch.zeros(1, 1, run.model.dim), torch.zeros(1, 2, dtype=torch.long)
        if isinstance(head, TokenHead):
            given, one, more = [state], "one state [1, 1, D]", ""
        else:
            given, one, more = [state[0], examples], "one vector [1, D]", " and examples [[0, 0]]"
        try:
            head(*given).sum().backward()
        except Exception as error:
            raise UserError(
                f"{where}: the head does not take {one}{more}, as it is given in the micro-batches of other tasks: "
                f"{type(error).__name__}: {error}; let it take any number"
            ) from error
    if unused := [name for name, weight in head.named_parameters() if weight.grad is None]:
        raise UserError(f"{where}: the head does not use {unused[0]} of {one}; give every weight a part in every call")


def _own_classes(run: RunConfig) -> dict[str, type[Task]]:
    return load_extensions("tasks", run.extensions.tasks, Task, TASKS)  # type: ignore[type-abstract]


def make_heads(run: RunConfig, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return freshly initialised heads of these tasks, in their order, without those that have none."""
    heads = {name: task_class(run, name).head(run.model.dim, run.verse_tasks) for name in names}
    return {name: head for name, head in heads.items() if head is not None}


def meta_heads(run: RunConfig, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the heads of these tasks on the meta device: shapes without weights."""
    heads = {name: _meta_head(task_class(run, name), run.model.dim, run.verse_tasks) for name in names}
    return {name: head for name, head in heads.items() if head is not None}


@cache
def _meta_head(task: type[Task], dim: int, options: VerseTasksConfig) -> nn.Module | None:
    with torch.device("meta"):
        return task.head(dim, options)
