"""The output layer: logits of hidden states, or the nats of their targets, in which logits are alive a chunk at a time.

Shapes: B batch, T time, D width, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.linear import Linear
from genesis_ds.model.recompute import recompute
from genesis_ds.model.stablemax import stablemax_logits

IGNORE = -100
"""Target id that the loss leaves out."""


@dataclass(frozen=True)
class ReadOut:
    """What is made of hidden states with the output weight. It is called within the forward of the layer that has it.

    So ZeRO-3, which gathers for a layer's call, has the weight at hand for all chunks.
    """

    is_stablemax: bool
    chunk: int | None
    """Positions whose logits are alive at a time (`activation_checkpointing.loss_chunk`)."""

    @classmethod
    def of(cls, config: ModelShape, checkpointing: ActivationCheckpointingConfig) -> "ReadOut":
        """Return that of a model."""
        return cls(config.probabilities == "stablemax", checkpointing.loss_chunk)

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, D], weight [V, D] -> logits [B, T, V], of which the softmax has the probabilities.

        With a chunk and targets [B, T] -> the nats of each, fp32 [B, T], 0 of IGNORE. The logits of a chunk are
        computed again in its backward.
        """
        if targets is None or self.chunk is None:
            return self.logits(hidden, weight)
        states, wanted = hidden.flatten(0, 1).split(self.chunk), targets.flatten().split(self.chunk)
        nats = [recompute(partial(self._nats, weight, of), part) for part, of in zip(states, wanted, strict=True)]
        return torch.cat(nats).view_as(targets)

    def logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Hidden states [..., D], weight [V, D] -> logits [..., V]."""
        logits = F.linear(hidden, weight)
        return stablemax_logits(logits) if self.is_stablemax else logits

    def _nats(self, weight: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(hidden, weight).float(), targets, ignore_index=IGNORE, reduction="none")


class OutputLayer(Linear):
    """A linear layer of D to V. gain: as in Linear."""

    def __init__(self, config: ModelShape, gain: float | None, read_out: ReadOut) -> None:
        super().__init__(config.dim, config.vocab_size, gain)
        self.read_out = read_out

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return what ReadOut makes of hidden states and targets."""
        return self.read_out(hidden, self.weight, targets)


def unit_logits_gain(config: ModelShape) -> float:
    """Return the Xavier gain of an output layer of std D^-0.5: on normed hidden states, logits of unit variance."""
    return float(((config.dim + config.vocab_size) / (2 * config.dim)) ** 0.5)
