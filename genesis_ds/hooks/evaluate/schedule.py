"""When evaluations are due."""

from dataclasses import dataclass

from genesis_ds.hooks.base import StepRecord

DENSER = 5
"""How many times as often evaluations come while something happens."""


@dataclass
class EvaluationSchedule:
    """Shared by a hook that evaluates and the one that watches what it finds."""

    every: int
    """Steps; 0: only at the end."""
    per_decade: int = 0
    dense: bool = False
    """Evaluate DENSER times as often."""

    def due(self, record: StepRecord) -> bool:
        """Return whether an evaluation is due at this step."""
        return record.due(self.every, self.per_decade) or (self.dense and record.due(-(-self.every // DENSER)))
