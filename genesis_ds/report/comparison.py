"""Two runs side by side: what differs in their configurations, and what they have reached with the same effort."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genesis_ds import metrics
from genesis_ds.listing import print_table
from genesis_ds.report.run_record import RunRecord, Series, differences, read_run

MEAN = "validation"
"""What the mean over languages is called beside them; of arithmetic, the loss."""


class Compared(NamedTuple):
    """A measure of two runs."""

    what: str
    where: str
    """When it was measured: last, best, at an equal step, or after an equal number of tokens."""
    first: float
    second: float


def print_comparison(first: Path, second: Path, as_json: bool = False) -> None:
    """Print the configurations' difference and the measures of two runs, as tables or as one JSON object."""
    runs = [read_run(first), read_run(second)]
    differ, measures = differences(runs), compare(*runs)
    names = [run.name for run in runs]
    names = names if len(set(names)) > 1 else [str(first), str(second)]
    if as_json:
        found = [row._asdict() | {"difference": row.second - row.first} for row in measures]
        print(json.dumps({"runs": [str(run.path) for run in runs], "configuration": differ, "measures": found}))
        return
    print_table(("configuration", *names), [[key, *values] for key, values in differ.items()] or [["no difference"]])
    print()
    if not measures:
        print("no validation is known of both runs")
        return
    rows = [
        [row.what, row.where, f"{row.first:.3f}", f"{row.second:.3f}", f"{row.second - row.first:+.3f}"]
        for row in measures
    ]
    print_table((_unit(runs[0]), "", *names, "difference"), rows, numbers=(*names, "difference"))


def compare(first: RunRecord, second: RunRecord) -> list[Compared]:
    """Return the validation of two runs: last, best, at an equal step, after equal tokens; then each language's last.

    All but the last are of the split that is watched for grokking, and left out where each run watches another. Between
    two evaluations a straight line stands for what was not measured; what is before the first of a run is left out. A
    token is a place in a row of a batch, padding as well.
    """
    found = [run.validation() for run in (first, second)]
    of_a, of_b = (_finite(series) for series in found)
    best = [run.best() for run in (first, second)]
    if of_a is None or of_b is None or best[0] is None or best[1] is None or _unit(first) != _unit(second):
        return []
    step = min(of_a.steps[-1], of_b.steps[-1])
    per_step = [_tokens_per_step(run) for run in (first, second)]
    tokens = min(of_a.steps[-1] * per_step[0], of_b.steps[-1] * per_step[1])
    if first.watched_split != second.watched_split:
        return _by_language(first, second, step)
    compared = [
        Compared(MEAN, f"last, at {of_a.steps[-1]:,} and {of_b.steps[-1]:,}", of_a.values[-1], of_b.values[-1]),
        Compared(MEAN, f"best, at {best[0][0]:,} and {best[1][0]:,}", best[0][1], best[1][1]),
        *_at(MEAN, f"at step {step:,}", (of_a, step), (of_b, step)),
    ]
    if tokens:
        steps = [tokens / n for n in per_step]
        compared += _at(MEAN, f"after {tokens:,} tokens", (of_a, steps[0]), (of_b, steps[1]))
    return compared + _by_language(first, second, step)


def _by_language(first: RunRecord, second: RunRecord, step: int) -> list[Compared]:
    compared = []
    for name, series in first.measures.items():
        if not (at := metrics.BITS_PER_BYTE_OF.fullmatch(name)):
            continue
        of_a, of_b = _finite(series), _finite(second.measures.get(name))
        if of_a and of_b:
            what = f"{at['language']} {at['split']}"
            compared += _at(what, f"at step {step:,}", (of_a, step), (of_b, step))
    return sorted(compared, key=lambda row: row.first - row.second)


def _finite(series: Series | None) -> Series | None:
    """Return what is finite of a measure; None where nothing is."""
    if series is None or not (finite := np.isfinite(series.values)).any():
        return None
    return Series(series.steps[finite], series.values[finite])


def _at(what: str, where: str, first: tuple[Series, float], second: tuple[Series, float]) -> list[Compared]:
    """Return the row of two measures, each at a step; none where one of them was first measured later."""
    if any(step < series.steps[0] for series, step in (first, second)):
        return []
    values = [float(np.interp(step, series.steps, series.values)) for series, step in (first, second)]
    return [Compared(what, where, values[0], values[1])]


def _tokens_per_step(run: RunRecord) -> int:
    batch: dict[str, Any] = run.config.get("batch", {})
    return int(batch.get("global_batch_size") or 0) * int(batch.get("seq_len") or 0)


def _unit(run: RunRecord) -> str:
    is_text = any(metrics.BITS_PER_BYTE_OF.fullmatch(name) for name in run.measures)
    return "bits per byte" if is_text else "loss"
