"""What a user adds to a run from modules of their own."""

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

    def __post_init__(self) -> None:
        for kind in ("tasks", "hooks", "optimizers"):
            for name, path in getattr(self, kind).items():
                holds = re.fullmatch(r"\w+(\.\w+)*:\w+", path) is not None
                require(f"extensions.{kind}", name, path, holds, "module:Class, such as my_module:MyClass")
