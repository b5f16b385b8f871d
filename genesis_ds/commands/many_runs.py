"""The commands of several runs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunsFlags:
    """What `runs` takes."""

    directories: tuple[str, ...]
    """Where the runs are, or directories of them such as a sweep's. Left out: runs."""
    json: bool = False
    """Print a JSON line for each run."""


def runs(flags: RunsFlags) -> None:
    """List the runs of a directory: whether they train, how far they are, their best validation, size and shape.

    Examples:
        genesis-ds runs
        genesis-ds runs runs/sweeps --json
    """
    from genesis_ds.report.table_of_runs import print_runs

    print_runs([Path(directory) for directory in flags.directories or ("runs",)], as_json=flags.json)


def compare(first: str, second: str, json: bool = False) -> None:
    """Compare two runs: their configurations, and what they have reached, at equal steps and at equal tokens.

    Args:
        first: The directory of a run.
        second: The directory of another one.
        json: Print one JSON object.

    Examples:
        genesis-ds compare runs/quickstart runs/deep_50m
    """
    from genesis_ds.report.comparison import print_comparison

    print_comparison(Path(first), Path(second), as_json=json)


def sweep(path: str, json: bool = False) -> int:
    """Train a run with many values of its fields, one trial after another; the same command goes on after a stop.

    Exit code 1: no trial has come to its end.

    Args:
        path: The sweep's YAML: which fields, which values, and how a trial is judged.
        json: Print a JSON line for each trial.

    Examples:
        genesis-ds sweep lr.yaml
    """
    from genesis_ds.sweep.command import run_sweep

    return run_sweep(path, as_json=json)
