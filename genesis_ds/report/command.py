"""The command that writes the report of runs, once or at each of their evaluations."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from genesis_ds.disk import replacing, require_alike, size_of
from genesis_ds.report.page import BEGINNING, page
from genesis_ds.report.run_record import METRICS, RunRecord, read_run, state_of

EVERY = 5.0
"""Seconds between two looks at the runs that are followed."""
EVALUATION = b'"val/'
"""What a record of an evaluation has, and no other."""


def write_report(paths: Sequence[Path], output: Path, is_live: bool = False) -> list[RunRecord]:
    """Write the report of runs in the place of an earlier one alone; return the runs. Raises UserError."""
    require_alike(output, BEGINNING.encode())
    runs = _told_apart([read_run(path) for path in paths])
    written = page(runs, is_live and not all(run.state == "done" for run in runs))
    with replacing(output) as temporary:
        temporary.write_bytes(written)
    return runs


def _told_apart(runs: list[RunRecord]) -> list[RunRecord]:
    """Return runs under their names, those that share one under their paths."""
    names = Counter(run.name for run in runs)
    return [replace(run, name=str(run.path)) if names[run.name] > 1 else run for run in runs]


def follow(paths: Sequence[Path], output: Path, tell: Callable[[list[RunRecord]], None]) -> None:
    """Write the report, and write it again at each evaluation and whenever a run stops or goes on, until all are done.

    Of the runs it reads what is new in their metrics.jsonl alone, until there is an evaluation in it.
    """
    seen: dict[Path, int] = {}
    while True:
        seen = {path: size_of(path / METRICS) for path in paths}
        runs = write_report(paths, output, is_live=True)
        tell(runs)
        if all(run.state == "done" for run in runs):
            return
        while not any(_is_new(run, seen) for run in runs):
            time.sleep(EVERY)


def _is_new(run: RunRecord, seen: dict[Path, int]) -> bool:
    """Return whether there is an evaluation that was not there, and note how much of the file has been read."""
    if state_of(run.path, run.is_complete) != run.state:
        return True
    file = run.path / METRICS
    before, size = seen[run.path], size_of(file)
    seen[run.path] = size
    if size <= before:
        return size < before  # a segment was closed, or a resumed run has taken records back
    with open(file, "rb") as opened:
        opened.seek(before)
        return EVALUATION in opened.read(size - before)
