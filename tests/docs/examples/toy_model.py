"""A model of one's own: a stack of gated recurrent units in the place of the decoder.

extensions:
  model: toy_model:Gru
model: {n_layers: 4, dim: 128, options: {dropout: 0.1}}
"""

from torch import Tensor, nn

from genesis_ds.config import ModelShape


class Block(nn.Module):
    """x + dropout(GRU(norm(x))), arXiv 1406.1078."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]; what comes out at a position depends on it and those before."""
        states, _ = self.gru(self.norm(x))
        return x + self.dropout(states)


class Gru(nn.Module):
    """Token ids [B, T] -> hidden states [B, T, D]. The norm and the output layer over them are added to it."""

    def __init__(self, shape: ModelShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.dim)
        self.blocks = nn.ModuleList(Block(shape.dim, dropout) for _ in range(shape.n_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden
