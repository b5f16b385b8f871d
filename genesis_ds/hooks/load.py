"""The classes of a run's hooks: the built-in ones by the registry, a user's own by `extensions.hooks`."""

import inspect
from typing import Any, NamedTuple

from genesis_ds.config import RunConfig
from genesis_ds.errors import UserError, nearest
from genesis_ds.extensions import import_class, load_extensions, require_classmethod
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.registry import HOOKS, PHASES, Phase
from genesis_ds.model.own import require_model
from genesis_ds.optimizers.load import require_optimizer
from genesis_ds.tasks.load import require_tasks


class HookClass(NamedTuple):
    """A hook that a run may have."""

    name: str
    phase: Phase
    hook: type[Hook]
    options: dict[str, Any]
    """What the configuration gives under `hooks.NAME`; empty for a built-in hook."""


def hook_classes(config: RunConfig) -> list[HookClass]:
    """Return the run's hooks in the order of their turns."""
    found = [HookClass(name, entry.phase, import_class(entry.path), {}) for name, entry in HOOKS.items()]
    for name, hook in _own_classes(config).items():
        found.append(HookClass(name, hook.phase, hook, dict(config.hooks.get(name, {}))))
    return sorted(found, key=lambda each: PHASES.index(each.phase))


def require_hooks(config: RunConfig) -> None:
    """Import the user's own hooks.

    Raises UserError for one that cannot be had, and for options of a hook that is not the user's own.
    """
    own = _own_classes(config)
    for name in config.hooks:
        if name not in own:
            known = nearest(name, own) if own else "name its module:Class under extensions.hooks"
            raise UserError(f"hooks.{name}: no hook of extensions.hooks has this name; {known}")
    for name, hook in own.items():
        path = config.extensions.hooks[name]
        if hook.phase not in PHASES:
            phases = ", ".join(PHASES)
            raise UserError(f"extensions.hooks.{name}: {path} has the phase {hook.phase!r}; give one of {phases}")
        _require_options(name, path, hook, dict(config.hooks.get(name, {})))


def require_parts(config: RunConfig) -> None:
    """Import all that is the user's own: model, tasks, optimizer and hooks. Raises UserError for what cannot be had."""
    for require in (require_model, require_tasks, require_optimizer, require_hooks):
        require(config)


def _own_classes(config: RunConfig) -> dict[str, type[Hook]]:
    return load_extensions("hooks", config.extensions.hooks, Hook, HOOKS)


def _require_options(name: str, path: str, hook: type[Hook], options: dict[str, Any]) -> None:
    """Raise UserError unless the hook can be built, and its `build` takes these options."""
    require_classmethod(f"extensions.hooks.{name}", hook, "build")
    if inspect.getattr_static(hook, "build") is inspect.getattr_static(Hook, "build"):
        raise UserError(f"extensions.hooks.{name}: {path} lacks build; genesis_ds.hooks.base says what it is")
    try:
        inspect.signature(hook.build).bind(None, **options)
    except TypeError as error:
        raise UserError(f"hooks.{name}: {error}; give the options that the build of {path} takes") from error
