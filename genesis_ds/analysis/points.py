"""The points of a learning curve, and the events found in it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One evaluation of one curve."""

    step: int
    train_loss: float
    """Mean loss in nats on a fixed part of the training data, in evaluation mode."""
    val_loss: float
    """Mean loss in nats on validation data."""
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Event:
    """A change of a curve's phase, and the numbers that show it."""

    kind: str
    step: int
    values: dict[str, float]
    reason: str
