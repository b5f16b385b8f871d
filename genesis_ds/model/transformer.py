"""The decoder.

Shapes: B batch, T time, D width, H heads, K head width, V vocabulary. Module names are Llama's, so that checkpoints
of the earlier Genesis Arbiter code load unchanged.
"""

from functools import partial

from torch import Tensor, nn

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.block import Block
from genesis_ds.model.cache import KeyValueCache
from genesis_ds.model.documents import Documents
from genesis_ds.model.linear import Embedding
from genesis_ds.model.noise import Noise, drop
from genesis_ds.model.norm import RMSNorm
from genesis_ds.model.output import OutputLayer, ReadOut, unit_logits_gain
from genesis_ds.model.recompute import recompute
from genesis_ds.model.rope import rope_table
from genesis_ds.model.trunk import Observe


class Transformer(nn.Module):
    """A Llama-style decoder. Its call on token ids gives logits."""

    def __init__(self, config: ModelShape, checkpointing: ActivationCheckpointingConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing or ActivationCheckpointingConfig()
        # Hidden states leave the final norm with unit variance, so std D^-0.5 gives logits of unit variance.
        self.tok_embeddings = Embedding(
            config.vocab_size, config.dim, std=config.dim**-0.5 if config.tie_embeddings else 1.0
        )
        self.layers = nn.ModuleList(Block(config, self.checkpointing) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim)
        self.read_out = ReadOut.of(config, self.checkpointing)
        self.output = None
        if not config.tie_embeddings:
            gain = None if config.initialisation == "default" else unit_logits_gain(config)
            self.output = OutputLayer(config, gain, self.read_out)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [B, T] -> logits [B, T, V]. Raises ValueError for sequences longer than max_seq_len."""
        return self.logits(self.hidden(tokens))

    def hidden(
        self,
        tokens: Tensor,
        documents: Documents | None = None,
        observe: Observe | None = None,
        cache: KeyValueCache | None = None,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """Token ids [B, T] -> normed hidden states [B, T, D], of each document on its own where there are any.

        They are of the weights' dtype. observe is called after each layer with how many there have been and what came
        out, [B, T, D], in the residual stream's. cache: what is kept of the tokens before these, and takes these up.
        noise: what is dropped of them. Raises ValueError for more tokens than max_seq_len, or than the cache holds.
        """
        start = cache.length if cache else 0
        if (n_tokens := start + tokens.shape[1]) > self.config.max_seq_len:
            raise ValueError(f"{n_tokens} tokens are more than max_seq_len {self.config.max_seq_len}")
        if cache and n_tokens > cache.n_tokens:
            raise ValueError(f"{n_tokens} tokens are more than the {cache.n_tokens} that the cache holds")
        rotation = self._rotation(tokens, documents, start)
        hidden = drop(self.tok_embeddings(tokens), noise, 0)
        if self.config.fp32_residual:
            hidden = hidden.float()
        for index, module in enumerate(self.layers):
            kept = cache.layers[index] if cache else None
            dropped = noise and noise.of_block(index)
            layer = partial(module, rotation=rotation, documents=documents, cache=kept, noise=dropped)
            again = self._recomputes(index)
            hidden = recompute(layer, hidden, offload=self.checkpointing.offload) if again else layer(hidden)
            if observe:
                observe(index + 1, hidden)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Normed hidden states [B, T, D] -> logits [B, T, V], or the nats of targets [B, T] (see ReadOut)."""
        if self.output is None:
            tied: Tensor = self.tok_embeddings(hidden, partial(self.read_out, targets=targets))
            return tied
        untied: Tensor = self.output(hidden, targets)
        return untied

    def _rotation(self, tokens: Tensor, documents: Documents | None, start: int) -> Tensor:
        c = self.config
        table = rope_table(c.max_seq_len, c.head_dim, c.rope_theta, tokens.device)
        return table[start : start + tokens.shape[1]] if documents is None else table[documents.positions]

    def _recomputes(self, index: int) -> bool:
        return self.training and self.checkpointing.mode == "block" and index % self.checkpointing.every == 0
