"""Learning curves, and the events in them."""

from collections.abc import Iterable

from genesis_ds import metrics
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Event, Point
from genesis_ds.analysis.window_rule import WindowRule

CHANGED = "changed"
"""Beside the measures, a text: what of the run was changed before this evaluation."""
SHARES = ("train_accuracy", "val_accuracy", "memorised_share")
"""Measures from 0 to 1."""
MEASURES = ("train_loss", "val_loss", *SHARES)


def measures_of(curve: str, point: Point) -> dict[str, float]:
    """Return the metrics that a run writes of a point; report/curve_files.py reads them again."""
    values = {measure: getattr(point, measure) for measure in MEASURES}
    return {metrics.of_curve(curve, measure): value for measure, value in values.items() if value is not None}


def events_of(detector: GrokkingDetector | WindowRule, points: Iterable[Point]) -> list[Event]:
    """Return all events of a curve."""
    return [event for point in points for event in detector.update(point)]
