"""How the next token is drawn from logits.

Shapes: B batch, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genesis_ds.config.checks import require, require_count

COLDEST, HOTTEST = 1e-6, 1000
"""Below the first temperature a draw is the likeliest token, and logits divided by it could overflow; at the second all
tokens are as likely."""


@dataclass(frozen=True)
class Sampling:
    """How to draw a token: the repetition penalty comes first, then the temperature, then top_k, then top_p."""

    temperature: float = 0.7
    """By which logits are divided; 0: the likeliest token, always."""
    top_k: int = 0
    """Draw among the k likeliest tokens (arXiv 1805.04833); 0: among all."""
    top_p: float = 1.0
    """Draw among the fewest tokens that have this probability together (arXiv 1904.09751)."""
    repetition_penalty: float = 1.0
    """By which the logits of tokens that are there already are divided, or multiplied where they are negative (arXiv
    1909.05858)."""

    def __post_init__(self) -> None:
        allowed = f"a number from 0 to {HOTTEST:,}; 0 takes the likeliest token"
        require("temperature", self.temperature, 0 <= self.temperature <= HOTTEST, allowed)
        require_count("top_k", self.top_k)
        require("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, at most 1")
        penalty = self.repetition_penalty
        allowed = f"a number from {1 / HOTTEST:g} to {HOTTEST:,}; 1 is none"
        require("repetition_penalty", penalty, 1 / HOTTEST <= penalty <= HOTTEST, allowed)

    def draw(self, logits: Tensor, generator: torch.Generator, seen: Tensor | None = None) -> Tensor:
        """Return token ids [B, 1] drawn from logits fp32 [B, V]. seen: bool [B, V], which tokens are there already."""
        if seen is not None and self.repetition_penalty != 1:
            penalised = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature < COLDEST:
            return logits.argmax(-1, keepdim=True)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        probabilities = logits.softmax(-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered.masked_fill(before >= self.top_p, 0))
        return torch.multinomial(probabilities, 1, generator=generator)
