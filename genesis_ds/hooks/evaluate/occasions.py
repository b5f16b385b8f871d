"""What hooks have in common that measure the model before its first step, and some things more rarely than others."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genesis_ds import metrics
from genesis_ds.analysis.points import Event
from genesis_ds.hooks.base import Hook, Measures, StepRecord

THOROUGH = 10
"""Every so many evaluations, beginning with the first, a hook measures what takes longer as well."""


class BesideStep0(Hook):
    """A hook whose measures stand beside those of the model before its first step, which checkpoints keep."""

    def __init__(self) -> None:
        self.at_step_0: dict[str, float] = {}
        """Metric name -> its value then. Empty where this run was not there, or not on the same data."""

    @abstractmethod
    def measured(self) -> dict[str, float]:
        """Return the measures of the model as it is, by metric name. Every rank calls it."""

    def before_training(self, global_step: int) -> None:
        if global_step == 0:
            self.at_step_0 = dict(Measures(self.measured()))

    def beside(self, names: Iterable[str]) -> dict[str, float]:
        """Return what stands beside these metrics: their values at step 0, where there are any."""
        return {name + metrics.AT_STEP_0: self.at_step_0[name] for name in names if name in self.at_step_0}


@dataclass
class Occasions:
    """Which evaluations of a hook are thorough: the first, every THOROUGH-th, the last, and the one after an event.

    Events of a part of a text do not count.
    """

    task: str | None = None
    """The task whose events count; None: those of all."""
    n_evaluations: int = 0
    is_asked: bool = False
    """Whether there was an event since the last thorough evaluation."""
    _found_later: Mapping[str, list[Event]] = field(default_factory=dict)

    def look(self, record: StepRecord) -> None:
        """Take note of events, at every step, in a hook whose turn comes before they are found."""
        self.note(self._found_later)
        self._found_later = record.events

    def note(self, events: Mapping[str, list[Event]]) -> None:
        """Take note of events, by curve."""
        self.is_asked |= any(
            not metrics.is_of_a_part(curve) and self.task in (None, curve.split("/")[0]) for curve in events
        )

    def is_thorough(self, record: StepRecord) -> bool:
        """Return whether an evaluation at this step is thorough."""
        return self.is_asked or record.is_last or self.n_evaluations % THOROUGH == 0

    def count(self, record: StepRecord) -> bool:
        """Count an evaluation; return whether it is thorough."""
        is_thorough = self.is_thorough(record)
        self.n_evaluations += 1
        self.is_asked &= not is_thorough
        return is_thorough

    def state_dict(self) -> dict[str, Any]:
        """Return the JSON-able state that a checkpoint keeps."""
        self.note(self._found_later)
        return {"n_evaluations": self.n_evaluations, "is_asked": self.is_asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, which may have more in it."""
        self.n_evaluations, self.is_asked = state["n_evaluations"], state.get("is_asked", False)
