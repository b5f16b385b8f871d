"""The learning rate over the optimizer steps."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then constant, or a cosine down to a share of the peak (arXiv 1608.03983, without restarts).

    A plateau is constant here: what lowers its peak is hooks/observe/plateau.py.
    """

    kind: Literal["cosine", "constant", "plateau"]
    warmup_steps: int
    n_steps: int
    min_ratio: float
    decay_end_ratio: float = 1.0
    """Of the weight decay, from its first step to its last."""

    def decay_factor(self, step: int) -> float:
        """Return the factor on the weight decay at the optimizer step `step`, the first being 0."""
        return 1 + (self.decay_end_ratio - 1) * min(1.0, step / max(1, self.n_steps - 1))

    def factor(self, step: int) -> float:
        """Return the factor on the peak learning rate at the optimizer step `step`, the first being 0.

        It reaches 1 at step warmup_steps - 1 and, with a cosine, min_ratio at the last step.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind != "cosine":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.n_steps - 1 - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.min_ratio + (1 - self.min_ratio) * cosine
