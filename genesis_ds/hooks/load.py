"""The classes of a run's hooks: the built-in ones by the registry, a user's own by `extensions.hooks`."""

from typing import Any, NamedTuple

from genesis_ds.config import RunConfig
from genesis_ds.errors import UserError, nearest
from genesis_ds.extensions import import_class, load_extension
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.registry import HOOKS, PHASES, Phase


class HookClass(NamedTuple):
    """A hook that a run may have."""

    name: str
    phase: Phase
    hook: type[Hook]
    options: dict[str, Any]
    """What the configuration gives under `hooks.NAME`; empty for a built-in hook."""


def hook_classes(config: RunConfig) -> list[HookClass]:
    """Return the run's hooks in the order of their turns.

    Raises UserError for one of the user's own that cannot be had, and for options of a hook that is not the user's own.
    """
    own = config.extensions.hooks
    for name in own:
        if name in HOOKS:
            raise UserError(f"extensions.hooks.{name}: {name} is a built-in hook; choose another name")
    for name in config.hooks:
        if name not in own:
            known = nearest(name, own) if own else "name its module:Class under extensions.hooks"
            raise UserError(f"hooks.{name}: no hook of extensions.hooks has this name; {known}")
    found = [HookClass(name, entry.phase, import_class(entry.path), {}) for name, entry in HOOKS.items()]
    for name, path in own.items():
        hook = load_extension(f"extensions.hooks.{name}", path, Hook)
        found.append(HookClass(name, hook.phase, hook, dict(config.hooks.get(name, {}))))
    return sorted(found, key=lambda each: PHASES.index(each.phase))
