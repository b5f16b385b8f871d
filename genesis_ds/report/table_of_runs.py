"""The runs of a directory, a row each: what they are, how far they have come, and whether they are alive."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from genesis_ds import metrics
from genesis_ds.disk import warn
from genesis_ds.errors import UserError, shown
from genesis_ds.listing import print_table
from genesis_ds.memory.machine.hardware import format_bytes
from genesis_ds.report.run_record import CONFIG, RunRecord, State, read_run

DEEPEST = 3
"""Directories below the one that was given in which runs are looked for, as a sweep's lie in one of their own."""
COLOURS: dict[State, str] = {"running": "green", "done": "", "stopped": "yellow", "crashed": "red"}
COLUMNS = ("name", "state", "step", "best", "grokked", "size", "started (UTC)", "shape")


def print_runs(directories: Sequence[Path], as_json: bool = False) -> None:
    """Print a row, or a JSON line, for each run in some directories, the latest started first.

    Raises UserError for a directory that is not there or has no run.
    """
    found: dict[Path, tuple[str, RunRecord]] = {}
    for directory in directories:
        of_directory = {run.path: (_name(run, directory), run) for run in _read(directory)}
        if not of_directory:
            known = "no run is in it" if directory.is_dir() else "no such directory"
            raise UserError(f"{directory}: {known}; give a directory with runs, such as runs")
        found |= of_directory
    latest_first = sorted(found.values(), key=lambda named: _started(named[1]), reverse=True)
    if as_json:
        for _, run in latest_first:
            print(json.dumps(as_dict(run)))
    else:
        print_table(COLUMNS, [_row(name, run) for name, run in latest_first], numbers=("step", "size"), folded="name")


def as_dict(run: RunRecord) -> dict[str, Any]:
    """Return what --json prints of a run: null for what it does not have."""
    best, model = run.best(), run.config.get("model", {})
    return {
        "name": run.name,
        "path": str(run.path),
        "state": run.state,
        "step": run.last_step,
        "n_steps": run.n_steps,
        "best": best[1] if best else None,
        "best_step": best[0] if best else None,
        "grokked": _grokked(run),
        "size_bytes": _size(run.path),
        "started": _started(run) or None,
        "n_layers": model.get("n_layers"),
        "dim": model.get("dim"),
    }


def _read(directory: Path) -> Iterator[RunRecord]:
    for path in _directories(directory, DEEPEST):
        try:
            yield read_run(path)
        except (UserError, OSError) as error:  # one broken run is no reason to be silent of the others
            warn(shown(error))


def _directories(below: Path, depth: int) -> Iterator[Path]:
    if (below / CONFIG).is_file():
        yield below
    elif depth and below.is_dir():
        for path in sorted(below.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from _directories(path, depth - 1)


def _started(run: RunRecord) -> str:
    return run.starts[0].started if run.starts else ""


def _name(run: RunRecord, directory: Path) -> str:
    """Return a run's path below the directory, which tells runs of one name apart."""
    return run.name if run.path == directory else str(run.path.relative_to(directory))


def _grokked(run: RunRecord) -> dict[str, int]:
    """Return curve -> the step at which it has grokked, or improved late where losses alone are known."""
    last = ("grokked", "late_improvement")
    return {event.curve: event.step for event in run.events if event.kind in last and _is_whole(event.curve)}


def _is_whole(curve: str) -> bool:
    return not metrics.is_of_a_part(curve)


def _size(path: Path) -> int:
    """Return the bytes of a directory's files; one that goes meanwhile counts nothing."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _row(name: str, run: RunRecord) -> list[str | Text]:
    told = as_dict(run)
    grokked = sorted(told["grokked"].values())
    more = f" and {len(grokked) - 1} more" if len(grokked) > 1 else ""
    step = f"{run.last_step:,}/{run.n_steps:,}" if run.n_steps else f"{run.last_step:,}"
    return [
        name,
        Text(run.state, COLOURS[run.state]),
        step,
        f"{told['best']:.3f} @{told['best_step']:,}" if told["best"] is not None else "-",
        f"@{grokked[0]:,}{more}" if grokked else "-",
        format_bytes(told["size_bytes"]),
        _started(run)[5:16].replace("T", " ") or "-",
        f"{told['n_layers']} x {told['dim']}" if told["dim"] else "-",
    ]
