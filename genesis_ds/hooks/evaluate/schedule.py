"""When evaluations are due."""

from dataclasses import dataclass

from genesis_ds.hooks.base import StepRecord

DENSER = 5
"""How many times as often evaluations come while a curve is between onset and grokked."""


@dataclass
class EvaluationSchedule:
    """When a task is evaluated. The hook that evaluates reads it; the one that looks for grokking makes it denser."""

    every: int
    """Steps between evaluations; 0: only at the end."""
    per_decade: int = 0
    """So many evaluations in each power of ten of steps as well, as in StepRecord.due."""
    dense: bool = False
    """Whether to evaluate DENSER times as often."""

    def due(self, record: StepRecord) -> bool:
        """Return whether an evaluation is due at this step."""
        return record.due(self.every, self.per_decade) or (self.dense and record.due(-(-self.every // DENSER)))
