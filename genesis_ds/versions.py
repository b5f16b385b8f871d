"""The versions of the program and its libraries."""

import importlib.metadata
import platform

import genesis_ds

PACKAGES = ("torch", "deepspeed", "numpy", "sentencepiece", "flash-attn")


def versions() -> dict[str, str]:
    """Return {name: version} of what is installed."""
    found = {"genesis_ds": genesis_ds.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
