"""One decoder block."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.attention import Attention
from genesis_ds.model.cache import LayerCache
from genesis_ds.model.documents import Documents
from genesis_ds.model.linear import Linear
from genesis_ds.model.noise import Noise, drop
from genesis_ds.model.norm import DeepNorm, RMSNorm
from genesis_ds.model.recompute import recompute, recompute_elementwise


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (arXiv 2002.05202).

    DeepNorm's gain beta is on w3 and w2; the gate w1 has gain 1, so that the branch scales with beta^2 as in the paper.
    """

    def __init__(self, config: ModelShape, checkpointing: ActivationCheckpointingConfig) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        deepnorm = config.initialisation == "deepnorm"
        gain, branch_gain = (1.0, config.init_beta) if deepnorm else (None, None)
        self.w1 = Linear(config.dim, config.intermediate_size, gain)
        self.w2 = Linear(config.intermediate_size, config.dim, branch_gain)
        self.w3 = Linear(config.dim, config.intermediate_size, branch_gain)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        if self.checkpointing.mode == "swiglu" and self.training:
            # silu(gate) and the product are not kept: two tensors of four. torch stops before w2 is computed again.
            return recompute(lambda gate, up: self.w2(F.silu(gate) * up), self.w1(x), self.w3(x))
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each with its residual and norm.

    deepnorm: x = LayerNorm(alpha x + f(x)); rmsnorm: x = x + f(RMSNorm(x)). f works in the weights' dtype, whatever
    that of x.
    """

    def __init__(self, config: ModelShape, checkpointing: ActivationCheckpointingConfig) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.post_norm = config.norm == "deepnorm"
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config, checkpointing)
        self.attention_norm, self.ffn_norm = (
            DeepNorm(config.dim, config.residual_alpha) if self.post_norm else RMSNorm(config.dim) for _ in range(2)
        )

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D] in x's dtype. documents and cache: as in Attention, one of them at most.

        noise: what its two branches drop.
        """
        forward = partial(self._forward, rotation=rotation, documents=documents, cache=cache, noise=noise)
        if self.checkpointing.mode == "elementwise" and self.training:
            return recompute_elementwise(forward, x)
        return forward(x)

    def _forward(
        self,
        x: Tensor,
        *,
        rotation: Tensor,
        documents: Documents | None,
        cache: LayerCache | None,
        noise: Noise | None,
    ) -> Tensor:
        if self.post_norm:
            dtype = self.attention.wq.weight.dtype
            h: Tensor = self.attention_norm(x, drop(self.attention(x.to(dtype), rotation, documents, cache), noise, 0))
            out: Tensor = self.ffn_norm(h, drop(self._feed_forward(h.to(dtype)), noise, 1))
            return out
        h = x + drop(self.attention(self.attention_norm(x), rotation, documents, cache), noise, 0)
        return h + drop(self._feed_forward(h), noise, 1)

    def _feed_forward(self, h: Tensor) -> Tensor:
        branch = self.feed_forward if self.post_norm else self._normed_feed_forward
        if self.checkpointing.mode == "mlp" and self.training:
            return recompute(branch, h, offload=self.checkpointing.offload)
        return branch(h)

    def _normed_feed_forward(self, h: Tensor) -> Tensor:
        branch: Tensor = self.feed_forward(self.ffn_norm(h))
        return branch
