"""What a task is: examples by global position, and a loss on what the model makes of them."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from genesis_ds.errors import Unavailable as Unavailable


@dataclass(frozen=True)
class Batch:
    """One rank's micro-batch of one task."""

    inputs: dict[str, Any]
    """What the model's forward takes: tokens int64 [B, T], and what the task adds."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """What the loss takes besides."""
    n_tokens: int = 0
    """Tokens that are not padding."""

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, {name: value.to(device) for name, value in self.labels.items()}, self.n_tokens)


class Task(Protocol):
    """A training task."""

    name: str

    @property
    def sequences_per_epoch(self) -> int | None:
        """Sequences in one pass over the task's examples; None: they are drawn anew for ever."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of examples whose accuracy is reported; empty: the task reports none."""
        ...

    def batch(self, positions: range, /) -> Batch:
        """The rows at these positions of the task, the same for ever and on every rank."""
        ...

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a batch given the model's output, and which examples it got right (bool [n], or None)."""
        ...
