"""Learning curves as they stand in files: a table, or the metrics of a run."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genesis_ds import metrics
from genesis_ds.analysis.curves import CHANGED, MEASURES, SHARES
from genesis_ds.analysis.points import Point
from genesis_ds.errors import UserError

REQUIRED = ("step", "train_loss", "val_loss")
OPTIONAL = {
    "train_acc": "train_accuracy",
    "val_acc": "val_accuracy",
    "lr": "learning_rate",
    "memorised": "memorised_share",
}
"""Columns of a CSV that may be absent or empty, and what they are called in a Point."""
_PREFIX = "grokking/"


def read_csv(path: Path) -> list[Point]:
    """Read the points of a table with a header of REQUIRED, OPTIONAL and CHANGED columns in any order.

    Others are ignored. Raises UserError for a column that is missing and, with the line, for what is no number, for a
    share that is not from 0 to 1 and for a step that is not after the one before; OSError for a file that cannot be
    read.
    """
    points: list[Point] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            if repeated := {name for name in rows.fieldnames if rows.fieldnames.count(name) > 1}:
                raise UserError(f"{path}: the column {min(repeated)} stands twice in the first line; keep one of them")
            if missing := [name for name in REQUIRED if name not in rows.fieldnames]:
                raise UserError(
                    f"{path}: no column {', '.join(missing)} in the first line; {', '.join(REQUIRED)} are needed, "
                    f"{', '.join((*OPTIONAL, CHANGED))} are read if they are there"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                point = _point(row, where)
                if points and point.step <= points[-1].step:
                    before = points[-1].step
                    raise UserError(f"{where}: step {point.step} is not after {before}; sort the lines by step")
                points.append(point)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file of text ({error})") from error
    if not points:
        raise UserError(f"{path}: nothing below the first line; one line for each evaluation is needed")
    return points


def _point(row: Mapping[str, str | None], where: str) -> Point:
    step, train_loss, val_loss = (_number(row, name, where) for name in REQUIRED)
    if not (step >= 0 and step.is_integer()):
        raise UserError(f"{where}: step {step:g} is not a whole number of 0 or more")
    optional = {field: _number(row, name, where) for name, field in OPTIONAL.items() if (row.get(name) or "").strip()}
    for name, field in OPTIONAL.items():
        if field in SHARES:
            _require_share(optional.get(field), name, where)
    return Point(int(step), train_loss, val_loss, **optional, changed=(row.get(CHANGED) or "").strip() or None)


def _number(row: Mapping[str, str | None], name: str, where: str) -> float:
    try:
        return float(row[name] or "")
    except ValueError:
        raise UserError(f"{where}: {name} {row[name] or ''!r} is not a number") from None


def _require_share(value: float | None, name: str, where: str) -> None:
    """Raise UserError for a share that is not from 0 to 1; one that is not finite counts as absent."""
    if value is not None and math.isfinite(value) and not 0 <= value <= 1:
        raise UserError(f"{where}: {name} {value:g} is not from 0 to 1; write per cent as a share, such as 0.97")


def curves_of(records: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, list[Point]]:
    """Return {curve (lm/en): its points} from the records of a run's metrics.jsonl, with the latest learning rate.

    records: with the file and line of each. Raises UserError, with these, for a measure that is missing, no number, or
    a share that is not from 0 to 1.
    """
    curves: dict[str, list[Point]] = defaultdict(list)
    learning_rate = None
    for where, record in records:
        learning_rate = record.get(metrics.LEARNING_RATE, learning_rate)
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in record.items():
            curve, _, measure = key.removeprefix(_PREFIX).rpartition("/")
            if key.startswith(_PREFIX) and measure in (*MEASURES, CHANGED):
                found[curve][measure] = value
        for curve, values in found.items():
            point = _point_of(values, record.get("global_step"), f"{where}: {_PREFIX}{curve}")
            curves[curve].append(replace(point, learning_rate=learning_rate))
    return dict(curves)


def _point_of(values: Mapping[str, Any], step: Any, where: str) -> Point:
    """Return the point of a curve's measures in one record."""
    if not {"train_loss", "val_loss"} <= values.keys():
        raise UserError(f"{where} has no train_loss or no val_loss")
    numbers = {measure: value for measure, value in values.items() if measure != CHANGED}
    if not all(isinstance(value, int | float) for value in (step, *numbers.values())):
        raise UserError(f"{where} is not made of numbers")
    for measure in SHARES:
        _require_share(numbers.get(measure), measure, where)
    changed = values.get(CHANGED)
    return Point(step, **numbers, changed=None if changed is None else str(changed))
