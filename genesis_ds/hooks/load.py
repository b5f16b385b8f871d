"""The classes of a run's hooks: the built-in ones by the registry, a user's own by `extensions.hooks`."""

import inspect
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
        if hook.phase not in PHASES:
            phases = ", ".join(PHASES)
            raise UserError(f"extensions.hooks.{name}: {path} has the phase {hook.phase!r}; give one of {phases}")
        options = dict(config.hooks.get(name, {}))
        _require_options(name, path, hook, options)
        found.append(HookClass(name, hook.phase, hook, options))
    return sorted(found, key=lambda each: PHASES.index(each.phase))


def _require_options(name: str, path: str, hook: type[Hook], options: dict[str, Any]) -> None:
    """Raise UserError unless the hook can be built, and its `build` takes these options."""
    if hook.build.__func__ is Hook.build.__func__:  # type: ignore[attr-defined]
        raise UserError(f"extensions.hooks.{name}: {path} lacks build; genesis_ds.hooks.base says what it is")
    try:
        inspect.signature(hook.build).bind(None, **options)
    except TypeError as error:
        raise UserError(f"hooks.{name}: {error}; give the options that the build of {path} takes") from error
