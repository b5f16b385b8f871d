"""What training drops at random, by numbers that the model is handed beside the tokens.

Shapes: B batch, T time, D width, L layers. A place is where something is dropped: the embedding, then attention and
feed-forward of each block in turn, 1 + 2L in all. The model itself draws nothing: what it drops is a function of these
numbers, the same on every device, in a compiled block, and in one that is computed again.
"""

from typing import NamedTuple

import torch
from torch import Tensor

KEYS = 2**32
"""Keys are whole numbers from 0 to below this."""
ROUNDS = ((16, 0x21F0AAAD), (15, 0x735A2D97))
LAST_SHIFT = 15
"""Shifts and multipliers of a hash of 32 bits (github.com/skeeto/hash-prospector, the best of two rounds there). Both
multipliers are below 2^31, so that no product exceeds int64."""


class Noise(NamedTuple):
    """What the rows of a micro-batch drop at some places."""

    scales: Tensor
    """fp32 [places, B]: what the output of a place is multiplied by; 0 where the row drops all of it."""
    keys: Tensor
    """int64 [places, B]: keys, by which the elements are drawn that are dropped."""
    dropout: float
    """Share of the elements that are."""

    @classmethod
    def empty(cls, n_layers: int, rows: int, dropout: float, device: torch.device) -> "Noise":
        """Return that of so many rows without values, for a trace."""
        places = 1 + 2 * n_layers, rows
        return cls(torch.empty(places, device=device), torch.empty(places, dtype=torch.int64, device=device), dropout)

    def to(self, device: torch.device) -> "Noise":
        """Return the same on a device."""
        return self._replace(scales=self.scales.to(device), keys=self.keys.to(device))

    def of_block(self, index: int) -> "Noise":
        """Return what the two branches of the block at an index drop."""
        places = slice(1 + 2 * index, 3 + 2 * index)
        return self._replace(scales=self.scales[places], keys=self.keys[places])


def drop(x: Tensor, noise: Noise | None, place: int) -> Tensor:
    """x [B, T, D] -> the same without what the noise drops at a place, scaled in fp32, in x's dtype."""
    if noise is None:
        return x
    kept = x * noise.scales[place, :, None, None]
    if noise.dropout:
        drawn = _hash(noise.keys[place], x.shape)
        kept = kept.masked_fill(drawn < round(noise.dropout * KEYS), 0)
    return kept.to(x.dtype)


def _hash(keys: Tensor, shape: torch.Size) -> Tensor:
    """Return a uniform number below KEYS for each element [B, T, D] of rows with these keys [B].

    Channels are hashed by themselves first: of inputs that differ in a bit or two the hash is not wholly independent.
    """
    tokens, channels = (torch.arange(n, device=keys.device) for n in shape[1:])
    return _mix(_mix(keys[:, None] ^ tokens)[..., None] ^ _mix(channels))


def _mix(x: Tensor) -> Tensor:
    """Return the hash of numbers below KEYS, in their memory."""
    for shift, factor in ROUNDS:
        x ^= x >> shift
        x *= factor
        x &= KEYS - 1
    x ^= x >> LAST_SHIFT
    return x
