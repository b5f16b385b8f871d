"""Learning curves with known shapes, and what a detector says of them."""

import math
from collections.abc import Callable
from dataclasses import replace

from genesis_ds.analysis.curves import events_of
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Point
from genesis_ds.analysis.window_rule import WindowRule

Loss = Callable[[int], float]


def falls(high: float, low: float, at: int, sharpness: float = 6) -> Loss:
    """From high to low, half-way at a step."""
    return lambda step: low + (high - low) / (1 + (step / at) ** sharpness)


def curve(train: Loss, val: Loss, last: int = 6000, every: int = 20, learning_rate: Loss | None = None) -> list[Point]:
    steps = range(every, last + 1, every)
    return [Point(s, train(s), val(s), learning_rate=learning_rate(s) if learning_rate else None) for s in steps]


def with_accuracies(points: list[Point]) -> list[Point]:
    """As a share of exp(-loss), which is 1 where the loss is 0."""
    return [replace(p, train_accuracy=math.exp(-p.train_loss), val_accuracy=math.exp(-p.val_loss)) for p in points]


def kinds(points: list[Point], detector: GrokkingDetector | WindowRule | None = None) -> list[str]:
    return [event.kind for event in events_of(detector or GrokkingDetector(), points)]


GROKKING = curve(falls(3.4, 0.0, 100), falls(4.0, 0.0, 2500))
