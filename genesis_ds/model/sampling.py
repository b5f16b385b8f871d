"""How the next token is drawn from logits.

Shapes: B batch, V vocabulary.
"""

import math

import torch
from torch import Tensor

from genesis_ds.config.sampling import Sampling

COLDEST = 1e-6
"""Below this temperature a draw is the likeliest token, as logits divided by it could overflow."""


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator, seen: Tensor | None = None) -> Tensor:
    """Return token ids [B, 1] drawn from logits fp32 [B, V]. seen: bool [B, V], which tokens are there already."""
    if seen is not None and sampling.repetition_penalty != 1:
        penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if sampling.temperature < COLDEST:
        return logits.argmax(-1, keepdim=True)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered.masked_fill(before >= sampling.top_p, 0))
    return torch.multinomial(probabilities, 1, generator=generator)
