"""The decoder with the heads of its tasks."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.model.documents import Documents
from genesis_ds.model.heads import CoherenceHead, ProjectionHead
from genesis_ds.model.transformer import Transformer, cross_entropy

LM = "lm"
"""The task whose head is the decoder's own output layer."""
STATES = "states"
"""No task and no head: a call in evaluation mode that gives mean hidden states."""


class MultiTaskModel(nn.Module):
    """One trunk, one head per task; a call runs the trunk once and the head of one task.

    In training every other head is run on a single state as well and its result multiplied by zero. It then has a zero
    gradient instead of none, which ZeRO-3 and ZeRO-2 with offload would take for its last one, and ZeRO-3 sees the
    same modules in the same order whatever the task, so that its prefetching stays valid.
    """

    def __init__(self, base: Transformer, tasks: tuple[str, ...] = (), projection_dim: int = 128) -> None:
        """tasks: those with a head, LM not among them."""
        super().__init__()
        self.base = base
        self.heads = nn.ModuleDict({task: _head(task, base.config.dim, projection_dim) for task in tasks})
        self.trunk_gradient_norm: Tensor | None = None
        """Norm of the last backward's gradient with respect to the final hidden states, fp32 scalar."""

    def forward(
        self,
        task: str,
        tokens: Tensor,
        targets: Tensor | None = None,
        documents: Documents | None = None,
        examples: Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        depths: Sequence[int] = (),
    ) -> Tensor:
        """What the head of the task makes of token ids [B, T].

        lm: logits [B, T, V], with targets [B, T] the cross-entropy. Other tasks: of the documents and the examples
        [m, k] (their numbers), what the head says of each example. STATES: the mean hidden states of each document in
        the examples after so many layers, fp32 [m, k, depths, D], after all of them normed.
        """
        if task == STATES:
            assert documents is not None, "states are of documents"
            assert examples is not None, "states are of examples"
            return self._states(tokens, documents, depths)[examples]
        hidden = self.base.hidden(tokens, documents)
        if hidden.requires_grad:
            hidden.register_hook(self._observe)
        outputs = {}
        if task == LM or self.training:
            outputs[LM] = self.base.logits(hidden if task == LM else hidden[:1, :1])
        for name, head in self.heads.items():
            if name == task:
                assert documents is not None, "a verse task has documents"
                assert examples is not None, "a verse task has examples"
                verses = F.layer_norm(documents.mean(hidden), hidden.shape[-1:])
                outputs[name] = head(verses.to(hidden.dtype), examples)
            elif self.training:
                outputs[name] = head(hidden[0, :1], torch.zeros(1, 2, dtype=torch.long, device=tokens.device))
        output = outputs.pop(task)
        if targets is not None:
            output = cross_entropy(output, targets, reduction)
        return output + 0.0 * sum(idle.sum() for idle in outputs.values()) if outputs else output

    def _states(self, tokens: Tensor, documents: Documents, depths: Sequence[int]) -> Tensor:
        assert not self.training, "without their heads' part in it, ZeRO-3 would see other modules than in training"
        means: dict[int, Tensor] = {}

        def observe(depth: int, hidden: Tensor) -> None:
            if depth in depths:
                means[depth] = documents.mean(hidden)

        hidden = self.base.hidden(tokens, documents, observe)
        if (last := len(self.base.layers)) in depths:
            means[last] = documents.mean(hidden)
        return torch.stack([means[depth] for depth in depths], dim=1)

    def _observe(self, gradient: Tensor) -> None:
        self.trunk_gradient_norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)


def build_model(
    config: ModelConfig,
    checkpointing: ActivationCheckpointingConfig,
    tasks: tuple[str, ...] = (),
    projection_dim: int = 128,
) -> MultiTaskModel:
    """A freshly initialised model. The decoder's weights do not depend on the tasks."""
    return MultiTaskModel(Transformer(config, checkpointing), tasks, projection_dim)


def _head(task: str, dim: int, projection_dim: int) -> nn.Module:
    return CoherenceHead(dim) if task == "coherence" else ProjectionHead(dim, projection_dim)
