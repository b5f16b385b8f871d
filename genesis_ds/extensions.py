"""Classes of the user's own, by import path. Only a run's own YAML and flags are imported from.

A checkpoint, an export or another run's directory may name such a class; it is never imported because of that.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Container, Mapping
from types import ModuleType
from typing import TypeVar

from genesis_ds.errors import UserError, nearest

T = TypeVar("T")


def import_class(path: str) -> type:
    """Return the class at module:Class. Raises whatever its import raises."""
    module, _, name = path.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def load_extensions(kind: str, paths: Mapping[str, str], base: type[T], built_in: Container[str]) -> dict[str, type[T]]:
    """Return the user's classes of `extensions.<kind>` by name. Raises UserError as load_extension, and for a name that
    is built in."""
    for name in paths:
        if name in built_in:
            raise UserError(f"extensions.{kind}.{name}: {name} is built in; choose another name")
    return {name: load_extension(f"extensions.{kind}.{name}", path, base) for name, path in paths.items()}


def require_classmethod(key: str, found: type, method: str) -> None:
    """Raise UserError where a method of a user's class is not called on the class."""
    if not isinstance(inspect.getattr_static(found, method), classmethod | staticmethod):
        raise UserError(f"{key}: {method} of {found.__name__} is no class method; put @classmethod over it")


def load_extension(key: str, path: str, base: type[T]) -> type[T]:
    """Return a user's class, imported as `python -m` would from the current directory.

    key: where it is given, such as extensions.hooks.lookout. Raises UserError for a path that cannot be imported, and
    for a class that is not derived from `base` or lacks what that asks for.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, _, name = path.partition(":")
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a script without a __main__ guard exits
        raise UserError(
            f"{key}: {path} cannot be imported: {type(error).__name__}: {error}; `python -c 'import {module}'` shows "
            "where"
        ) from error
    if not hasattr(imported, name):
        file, there = getattr(imported, "__file__", module), _classes(imported, base)
        hint = nearest(name, there) if there else f"it has no {base.__name__.lower()} at all"
        raise UserError(f"{key}: {path} is not there: {file} has no {name}; {hint}")
    found = getattr(imported, name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(
            f"{key}: {path} is no {base.__name__.lower()}; derive it from {base.__module__}.{base.__name__}"
        )
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise UserError(f"{key}: {path} lacks {', '.join(missing)}; {base.__module__} says what they are")
    return found


def _classes(module: ModuleType, base: type) -> list[str]:
    there = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return [name for name, value in there.items() if issubclass(value, base) and value is not base]
