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
    """Share of right answers, 0 to 1; it counts where the validation accuracy is there too."""
    val_accuracy: float | None = None
    learning_rate: float | None = None
    memorised_share: float | None = None
    """Share of the training examples asked for that the model gives back word for word, 0 to 1; where accuracies are
    absent, it decides what is memorised."""
    changed: str | None = None
    """What of the run was changed since the evaluation before, such as "data" or "weight decay"."""


@dataclass(frozen=True)
class Event:
    """A change of a curve's phase, and the numbers that show it."""

    kind: str
    step: int
    values: dict[str, float]
    reason: str
    confounded_by: str | None = None
    """What was changed so shortly before that it may be the cause."""
