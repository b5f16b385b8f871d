"""Distillation: language modelling learns from the probabilities of trained models too (arXiv 1503.02531).

Shapes: B rows, T time, V vocabulary.
"""

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.config import DistillConfig, ModelShape
from genesis_ds.model.transformer import Transformer

DISTILLATION = "distillation"
"""The name of what is reported of it."""
TEACHER = "teacher"
"""The label of a batch that has the teacher's probabilities."""


class Teacher:
    """Trained models whose mean probability language modelling learns from. They stay as they are."""

    def __init__(self, config: DistillConfig, members: Sequence[Transformer]) -> None:
        """members: decoders in evaluation mode, on one device."""
        self.config, self.members = config, list(members)

    @property
    def shapes(self) -> tuple[ModelShape, ...]:
        """Those of the members."""
        return tuple(member.config for member in self.members)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all weights as they were read; it is asked for before the models are placed."""
        digest = hashlib.sha256()
        for member in self.members:
            for name, weight in member.state_dict().items():
                digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
                digest.update(weight.contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the models to a device, with weights of a dtype: what becomes of their files is then all the same."""
        self.members = [copy.deepcopy(member).to(device, dtype) for member in self.members]

    @torch.no_grad()  # not inference_mode: the student's backward pass takes what is made here
    def probabilities(self, tokens: Tensor) -> Tensor:
        """Return the mean of the members' probabilities at the temperature, fp32 [B, T, V], of token ids [B, T].

        They are on the members' device.
        """
        tokens = tokens.to(next(self.members[0].parameters()).device)
        total = self._probabilities(self.members[0], tokens)
        for member in self.members[1:]:
            total += self._probabilities(member, tokens)
        return total.div_(len(self.members))

    def _probabilities(self, member: Transformer, tokens: Tensor) -> Tensor:
        logits: Tensor = member(tokens)
        return logits.float().div_(self.config.temperature).softmax(-1)


def distilled(loss: Tensor, logits: Tensor, teacher: Tensor, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Return (1 - weight) x loss + weight x temperature^2 x KL(teacher || student), and that KL in nats per token.

    loss: the cross-entropy, a scalar. logits: the student's, [B, T, V]. teacher: its probabilities at the temperature,
    fp32 [B, T, V]. The KL is the mean over tokens, both being at the temperature.
    """
    soft = F.cross_entropy(logits.flatten(0, 1).float() / config.temperature, teacher.flatten(0, 1))
    with torch.no_grad():
        entropy = -torch.special.xlogy(teacher, teacher).sum() / teacher[..., 0].numel()
    divergence = soft - entropy
    return (1 - config.weight) * loss + config.weight * config.temperature**2 * divergence, divergence
