"""The versions of the program and its libraries."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

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


def git_commit() -> str | None:
    """Return the commit of this source tree, marked -dirty when files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    source = Path(genesis_ds.__file__).parent
    try:
        described = subprocess.run(
            command, cwd=source, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
