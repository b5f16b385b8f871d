"""Tasks, hooks, optimizers and a model that a user adds to a run from modules of their own."""

import re
from dataclasses import dataclass, field

from genesis_ds.config.checks import require


@dataclass(frozen=True)
class ExtensionsConfig:
    """Classes of your own, imported from the current directory or from what is installed.

    Only a run's own YAML and flags are imported from; a checkpoint, an export or another run's directory never is.
    """

    tasks: dict[str, str] = field(default_factory=dict)
    """Tasks: name -> module:Class, derived from genesis_ds.tasks.base.Task. The name may then stand under `tasks`."""

    hooks: dict[str, str] = field(default_factory=dict)
    """Hooks: name -> module:Class, derived from genesis_ds.hooks.base.Hook. `hooks.NAME` gives its options."""

    optimizers: dict[str, str] = field(default_factory=dict)
    """Optimizers: name -> module:Class, derived from torch.optim.Optimizer, with the names of the tensors of a weight's
    shape in its state: state_tensors = ("exp_avg",). `optimizer.name` may then be the name."""
    model: str | None = None
    """The model: module:Class, an nn.Module that docs/extending.md describes, in the place of the decoder. It gets the
    model's shape, and `model.options`. None: the decoder."""

    def __post_init__(self) -> None:
        for kind in ("tasks", "hooks", "optimizers"):
            for name, path in getattr(self, kind).items():
                _require_path(f"extensions.{kind}.{name}", path)
        if self.model is not None:
            _require_path("extensions.model", self.model)


def _require_path(key: str, path: str) -> None:
    holds = re.fullmatch(r"\w+(\.\w+)*:\w+", path) is not None
    require(key, path, holds, "module:Class, such as my_module:MyClass")
