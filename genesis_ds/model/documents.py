"""Documents packed into rows: every token attends within its document alone, and positions start anew in each."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

PADDING = -1
"""Document number of padding."""


@dataclass(frozen=True)
class Documents:
    """Where the documents of a micro-batch lie in its rows [B, T]. A row's padding stands at its end."""

    numbers: Tensor
    """int64 [B, T]: the document each token belongs to, 0..n-1 over the whole micro-batch, or PADDING."""
    positions: Tensor
    """int64 [B, T]: each token's position in its document."""
    boundaries: Tensor
    """int32: first token of each document (padding is one as well) among the B*T tokens in order, and B*T."""
    n: int
    """Number of documents, padding not counted."""
    longest: int
    """Tokens of the longest document, padding counted."""

    @classmethod
    def of(cls, numbers: Tensor) -> "Documents":
        """From the document numbers [B, T] alone."""
        rows, time = numbers.shape
        begins = torch.ones_like(numbers, dtype=torch.bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        starts = begins.flatten().nonzero().flatten()
        lengths = torch.diff(starts, append=torch.tensor([rows * time]))
        first = torch.repeat_interleave(starts, lengths)
        positions = (torch.arange(rows * time) - first).view(rows, time)
        boundaries = torch.cat([starts, torch.tensor([rows * time])]).int()
        return cls(numbers, positions, boundaries, int(numbers.max()) + 1, int(lengths.max()))

    def to(self, device: torch.device) -> "Documents":
        """The same on a device."""
        return replace(
            self,
            numbers=self.numbers.to(device),
            positions=self.positions.to(device),
            boundaries=self.boundaries.to(device),
        )

    @cached_property
    def mask(self) -> Tensor:
        """fp32 [B, 1, T, T], to be added to attention scores: 0 where a token (row) attends to another, else -inf."""
        attends = (self.numbers[:, None, :, None] == self.numbers[:, None, None, :]).tril()
        return torch.zeros(attends.shape, device=attends.device).masked_fill_(~attends, -torch.inf)

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean of each document's hidden states [B, T, D], in fp32: [n, D]. A product, so it is deterministic."""
        member = self.numbers.flatten() == torch.arange(self.n, device=hidden.device)[:, None]
        weights = member.float() / member.sum(1, keepdim=True)
        return weights @ hidden.flatten(0, 1).float()
