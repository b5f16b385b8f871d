"""What the verse tasks put on top of the decoder. A head sees each verse as the normed mean of its hidden states."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.model.linear import Linear


class CoherenceHead(nn.Module):
    """Whether the second verse of a pair follows the first: an MLP on x, y, |x - y| and xy (arXiv 1705.02364)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = Linear(4 * dim, dim, gain=None)
        self.output = Linear(dim, 1, gain=None)

    def forward(self, verses: Tensor, examples: Tensor) -> Tensor:
        """Verses [n, D] and pairs of them [m, 2] -> logits [m] in fp32."""
        x, y = verses[examples[:, 0]], verses[examples[:, 1]]
        features = torch.cat([x, y, (x - y).abs(), x * y], dim=-1)
        return self.output(F.gelu(self.hidden(features))).squeeze(-1).float()


class ProjectionHead(nn.Module):
    """Maps verses to unit vectors whose cosine means closeness: an MLP, as in SimCLR (arXiv 2002.05709)."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(dim, dim, gain=None)
        self.output = Linear(dim, projection_dim, gain=None)

    def forward(self, verses: Tensor, examples: Tensor) -> Tensor:
        """Verses [n, D] and groups of k of them [m, k] -> unit vectors [m, k, P] in fp32."""
        projected = self.output(F.gelu(self.hidden(verses))).float()
        return F.normalize(projected, dim=-1)[examples]
