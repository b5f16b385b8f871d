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
    def by_length(self) -> tuple[list[Tensor], Tensor]:
        """The documents, a row's padding among them, in groups of lengths within a factor of two.

        For each group the tokens of its n documents, int64 [n, L] among the B*T, a shorter one's last token repeated;
        and for each of the B*T tokens, int64, where it lies among the tokens of all groups.
        """
        starts, lengths = self.boundaries[:-1].long(), self.boundaries.diff().long()
        sizes = lengths.double().log2().ceil()
        groups, places, n_before = [], torch.empty_like(self.numbers.flatten()), 0
        for size in sizes.unique():
            group = sizes == size
            offsets = torch.arange(int(lengths[group].max()), device=lengths.device)
            last = lengths[group, None] - 1
            groups.append(starts[group, None] + offsets.minimum(last))
            within = torch.arange(groups[-1].numel(), device=lengths.device).view_as(groups[-1])
            places[groups[-1][offsets <= last]] = n_before + within[offsets <= last]
            n_before += groups[-1].numel()
        return groups, places

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean of each document's hidden states [B, T, D], in fp32: [n, D]. A product, so it is deterministic."""
        member = self.numbers.flatten() == torch.arange(self.n, device=hidden.device)[:, None]
        weights = member.float() / member.sum(1, keepdim=True)
        return weights @ hidden.flatten(0, 1).float()
