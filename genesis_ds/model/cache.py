"""What a decoder keeps of the tokens it has seen, so that the next one costs the work of one and not of all.

Shapes: B batch, T time, H_kv key and value heads, K head width.
"""

import torch
from torch import Tensor

from genesis_ds.config import ModelShape


class LayerCache:
    """The keys and values of one layer, in memory that is taken once."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """keys, values: room for those of T_max tokens, [B, T_max, H_kv, K]."""
        self.keys, self.values, self.length = keys, values, 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values [B, T, H_kv, K] of T more tokens; return those of all [B, length, H_kv, K]."""
        end = self.length + keys.shape[1]
        self.keys[:, self.length : end], self.values[:, self.length : end] = keys, values
        self.length = end
        return self.keys[:, :end], self.values[:, :end]


class KeyValueCache:
    """The keys and values of a decoder's layers, of rows of one length. It takes none that need gradients."""

    def __init__(self, shape: ModelShape, *, n_rows: int, n_tokens: int, like: Tensor) -> None:
        """n_tokens: T_max, the most that it is to hold. like: a weight of the decoder, for dtype and device."""
        size = (shape.n_layers, 2, n_rows, n_tokens, shape.kv_heads, shape.head_dim)
        memory = torch.empty(size, dtype=like.dtype, device=like.device)
        self.n_tokens = n_tokens
        self.layers = [LayerCache(keys, values) for keys, values in memory]

    @property
    def length(self) -> int:
        """Tokens of each row that it holds."""
        return self.layers[0].length

    def clear(self) -> None:
        """Forget all tokens."""
        for layer in self.layers:
            layer.length = 0
