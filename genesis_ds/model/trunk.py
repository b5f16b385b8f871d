"""What the heads stand on: the part of a model that makes hidden states of tokens, and its output layer.

Shapes: B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.documents import Documents
from genesis_ds.model.noise import Noise

Observe = Callable[[int, Tensor], None]
"""Called after each layer with how many there have been and what came out, [B, T, D]."""


class Trunk(Protocol):
    """An nn.Module that a MultiTaskModel stands on: the decoder (Transformer), or a user's own model (OwnTrunk)."""

    @property
    def layers(self) -> nn.ModuleList:
        """Its blocks, in the order in which tokens pass them."""

    @property
    def norm(self) -> nn.Module:
        """The last module of `hidden`; what comes out of it are the hidden states."""

    @property
    def output(self) -> nn.Module | None:
        """The output layer; None where the embeddings are it."""

    def hidden(
        self,
        tokens: Tensor,
        documents: Documents | None = None,
        observe: Observe | None = None,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """Return the normed hidden states [B, T, D] of token ids [B, T], in the weights' dtype.

        They are of each document on its own where there are any. noise: what is dropped of them in training.
        """

    def logits(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the logits [B, T, V] of normed hidden states [B, T, D].

        With `activation_checkpointing.loss_chunk` and targets [B, T]: the nats of each, fp32 [B, T].
        """


MakeTrunk = Callable[[ModelShape, ActivationCheckpointingConfig], Trunk]
"""Makes a freshly initialised trunk."""
