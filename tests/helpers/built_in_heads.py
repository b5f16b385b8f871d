"""Heads of the built-in tasks, for models that a test builds without a run."""

from collections.abc import Sequence

from torch import nn

from genesis_ds.config import RunConfig, VerseTasksConfig
from genesis_ds.tasks.load import task_class


def heads_of(tasks: Sequence[str], dim: int, projection_dim: int = 128) -> dict[str, nn.Module]:
    """Return freshly initialised heads by task."""
    options = VerseTasksConfig(projection_dim=projection_dim)
    return {task: task_class(RunConfig(), task).head(dim, options) for task in tasks}
