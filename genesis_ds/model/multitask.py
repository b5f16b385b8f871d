"""The decoder with the heads of its tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.documents import Documents
from genesis_ds.model.noise import Noise
from genesis_ds.model.transformer import Transformer
from genesis_ds.model.trunk import MakeTrunk, Trunk

LM = "lm"
"""The decoder's own output layer, as the head of every task that brings none."""
STATES = "states"
"""No task and no head: a call in evaluation mode that gives mean hidden states."""


class Outputs(NamedTuple):
    """What a call of the model gives."""

    output: Tensor
    """What the head of the task says."""
    idle: Tensor | None
    """The sum of what the other heads say and of a state, a scalar: there whatever the task, as ZeRO-3 counts outputs
    too. None outside of training, and where there are no heads."""


class TokenHead(nn.Module):
    """A head on the states of tokens: hidden states [B, T, D] -> [B, N, D], which the trunk's output layer reads.

    So the output of its task is logits [B, N, V], or, given targets [B, N] in a run that computes its loss in chunks,
    the nats of each. Any other head is on documents (see `Task.head`).
    """


class MultiTaskModel(nn.Module):
    """One trunk, one head per task; a call runs the trunk once and the head of one task.

    In training every other head is run on a single state as well, and the loss takes its result times zero
    (`keep_idle`). It then has a zero gradient instead of none, which ZeRO-3 and ZeRO-2 with offload would take
    for its last one, and ZeRO-3 sees the same modules in the same order whatever the task: its prefetching stays valid.
    """

    def __init__(self, base: Trunk, heads: Mapping[str, nn.Module]) -> None:
        """heads: by task; the trunk's output layer, LM, is the head of all others. See `Task.head`, TokenHead."""
        super().__init__()
        self.base = base
        self.heads = nn.ModuleDict(heads)
        self.trunk_gradient_norm: Tensor | None = None
        """Norm of the last backward's gradient with respect to the final hidden states, fp32 scalar."""

    def forward(
        self,
        task: str,
        tokens: Tensor,
        documents: Documents | None = None,
        examples: Tensor | None = None,
        depths: Sequence[int] = (),
        targets: Tensor | None = None,
        noise: Noise | None = None,
    ) -> Outputs:
        """Return what the head of the task makes of token ids [B, T].

        A task without a head of its own: logits [B, T, V]; given targets [B, T], of a run that computes its loss in
        chunks (`activation_checkpointing.loss_chunk`), the nats of each, fp32 [B, T]. One with a TokenHead: the same of
        the states that it gives. Others: of the documents and the examples [m, k] (their numbers), what the head says
        of each example. STATES: the mean hidden states of each document in the examples after so many layers, fp32
        [m, k, depths, D], after all of them normed. noise: what is dropped of the trunk in training.
        """
        if task == STATES:
            assert documents is not None, "states are of documents"
            assert examples is not None, "states are of examples"
            return Outputs(self._states(tokens, documents, depths)[examples], None)
        hidden = self.base.hidden(tokens, documents, noise=noise)
        if hidden.requires_grad:
            hidden.register_hook(self._observe)
        own, single = dict(self.heads.items()).get(task), hidden[:1, :1]
        reads_out = own is None or isinstance(own, TokenHead)
        read, outputs = hidden if reads_out else single, dict[str, Tensor]()
        for name, head in self.heads.items():  # before the output layer, whatever the task
            if isinstance(head, TokenHead) and name == task:
                read = head(hidden)
            elif isinstance(head, TokenHead) and self.training:
                outputs[name] = head(single)
        if reads_out or self.training:
            outputs[LM] = self.base.logits(read, targets if reads_out else None)
        for name, head in self.heads.items():
            if isinstance(head, TokenHead):
                continue
            if name == task:
                assert documents is not None, "a head is given documents"
                assert examples is not None, "a head is given examples"
                verses = F.layer_norm(documents.mean(hidden), hidden.shape[-1:])
                outputs[name] = head(verses.to(hidden.dtype), examples)
            elif self.training:
                outputs[name] = head(single[0], torch.zeros(1, 2, dtype=torch.long, device=tokens.device))
        output = outputs.pop(LM if reads_out else task)
        if not (self.training and self.heads):
            return Outputs(output, None)
        return Outputs(output, sum((other.sum() for other in outputs.values()), start=single.sum()))

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
    config: ModelShape,
    checkpointing: ActivationCheckpointingConfig,
    make_heads: Callable[[], Mapping[str, nn.Module]] = dict,
    make_trunk: MakeTrunk = Transformer,
) -> MultiTaskModel:
    """Return a freshly initialised model. The trunk's weights do not depend on the heads, which are made after it."""
    return MultiTaskModel(make_trunk(config, checkpointing), make_heads())


def keep_idle(loss: Tensor, idle: Tensor | None) -> Tensor:
    """Return the loss, through whose graph the idle heads get their zero gradients as well (see `Outputs`)."""
    return loss if idle is None else loss + 0.0 * idle
