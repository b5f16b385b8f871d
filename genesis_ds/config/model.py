"""The shape of the model, and which activations it keeps."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from genesis_ds.config.checks import MOST_LAYERS, WIDEST, require, require_positive
from genesis_ds.errors import UserError

LARGEST_VOCABULARY = 2**24
LIMITS = {
    "n_layers": MOST_LAYERS,
    "dim": WIDEST,
    "n_heads": WIDEST,
    "intermediate_size": 2**24,
    "max_seq_len": 2**27,
}
"""Largest sizes that are not taken for a mistake. What fits a machine is far below them."""
CheckpointingMode = Literal["none", "swiglu", "elementwise", "mlp", "block"]
"""What is recomputed, from the mode that keeps all to the one that keeps the least."""
AttentionBackend = Literal["auto", "flash_attn", "sdpa_flash", "sdpa"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-style decoder."""

    preset: str | None = None
    """Name of a shape (`genesis-ds presets` lists them); the fields given beside it override it."""
    n_layers: int = 8
    """Number of decoder blocks."""
    dim: int = 128
    """Width of the residual stream."""
    n_heads: int = 2
    """Number of query heads; divides dim."""
    n_kv_heads: int | None = None
    """Number of key/value heads (grouped-query attention); divides n_heads. None: as many as n_heads."""
    intermediate_size: int = 512
    """Width of the SwiGLU feed-forward layer."""
    vocab_size: int | None = None
    """Number of token ids. None: the tokenizer's."""
    max_seq_len: int = 4096
    """Longest sequence in tokens the model accepts."""
    norm: Literal["deepnorm", "rmsnorm"] = "deepnorm"
    """deepnorm: LayerNorm(alpha x + f(x)), arXiv 2203.00555. rmsnorm: pre-norm, x + f(RMSNorm(x))."""
    init: Literal["auto", "deepnorm", "default"] = "auto"
    """Weight initialisation. deepnorm: Xavier with gain beta; default: torch's own. auto follows `norm`."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the output matrix."""
    fp32_residual: bool = False
    """Keep the residual stream in fp32 in a bf16 run; in an fp32 run it always is. Nothing that a small branch adds is
    lost then (docs/numerics.md). It takes 2 bytes more for each element of a block's input that is kept to recompute
    the block, and with rmsnorm for each of a norm's input."""
    probabilities: Literal["softmax", "stablemax"] = "softmax"
    """How logits become probabilities. stablemax: StableMax, arXiv 2501.04697, which does not round to certainty."""
    attention: AttentionBackend = "auto"
    """Attention kernel. auto: the flash-attn package on a GPU where it is installed, otherwise torch's SDPA."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """What the class of `extensions.model` takes besides the shape."""

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            require_positive(f"model.{name}", getattr(self, name), most)
        require("model.rope_theta", self.rope_theta, 1 <= self.rope_theta < math.inf, "a number of 1 or more")
        if self.n_kv_heads is not None:
            require_positive("model.n_kv_heads", self.n_kv_heads, WIDEST)
        if self.vocab_size is not None:
            require_positive("model.vocab_size", self.vocab_size, LARGEST_VOCABULARY)
        require("model.dim", self.dim, self.dim % 2 == 0, "an even number, as heads have even widths")
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 2:
            valid = [h for h in range(1, self.dim // 2 + 1) if self.dim % h == 0 and (self.dim // h) % 2 == 0]
            raise UserError(
                f"model.n_heads: {self.n_heads} does not divide model.dim {self.dim} into even head widths; "
                f"valid for this dim: {_listed(valid)}"
            )
        if self.n_heads % self.kv_heads:
            valid = [h for h in range(1, self.n_heads + 1) if self.n_heads % h == 0]
            raise UserError(
                f"model.n_kv_heads: {self.n_kv_heads} does not divide model.n_heads {self.n_heads}; "
                f"valid: {_listed(valid)}"
            )
        if self.init == "deepnorm" and self.norm != "deepnorm":
            raise UserError("model.init: 'deepnorm' needs model.norm 'deepnorm'; use 'auto' or 'default'")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, n_heads where n_kv_heads is None."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width K of an attention head."""
        return self.dim // self.n_heads

    @property
    def initialisation(self) -> Literal["deepnorm", "default"]:
        """Weight initialisation, with auto resolved."""
        if self.init != "auto":
            return self.init
        return "deepnorm" if self.norm == "deepnorm" else "default"

    @property
    def residual_alpha(self) -> float:
        """DeepNorm's residual scale alpha = (2N)^(1/4) for a decoder of N layers, arXiv 2203.00555, figure 2."""
        return float((2 * self.n_layers) ** 0.25)

    @property
    def init_beta(self) -> float:
        """DeepNorm's initialisation gain beta = (8N)^(-1/4) for a decoder of N layers, arXiv 2203.00555, figure 2."""
        return float((8 * self.n_layers) ** -0.25)

    def of_vocabulary(self, vocab_size: int) -> "ModelShape":
        """Return the shape of a model for so many token ids."""
        return ModelShape(**(vars(self) | {"vocab_size": vocab_size}))


@dataclass(frozen=True)
class ModelShape(ModelConfig):
    """The shape of a model that can be built: all its sizes are known."""

    vocab_size: int = 0
    """Number of token ids V."""

    @property
    def n_parameters(self) -> int:
        """Number of weights, computed from the shape."""
        attention = 2 * self.dim * (self.n_heads + self.kv_heads) * self.head_dim
        feed_forward = 3 * self.dim * self.intermediate_size
        norms = 2 * self.dim * (2 if self.norm == "deepnorm" else 1)
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * (attention + feed_forward + norms) + self.dim


@dataclass(frozen=True)
class ActivationCheckpointingConfig:
    """Which activations are recomputed in the backward pass instead of kept (torch's non-reentrant checkpoint)."""

    mode: CheckpointingMode = "none"
    """What is recomputed, from nothing to all. swiglu: the product silu(gate) * up of each feed-forward layer;
    elementwise: all but matrix products and attention; mlp: the feed-forward half of each block; block: whole
    blocks."""
    every: int = 1
    """With mode block: recompute every k-th block; 1 is every block."""
    offload: bool = False
    """Hold the inputs of the recomputed parts in host memory until the backward pass needs them."""
    loss_chunk: int | None = None
    """Positions of a micro-batch whose logits are alive at a time: the loss is computed chunk by chunk, and the logits
    of each a second time in the backward pass. For large vocabularies. None: all at once."""

    def __post_init__(self) -> None:
        require_positive("activation_checkpointing.every", self.every)
        if self.mode != "block" and self.every != 1:
            raise UserError(f"activation_checkpointing.every: {self.every} needs mode 'block', not '{self.mode}'")
        if self.mode not in ("block", "mlp") and self.offload:
            raise UserError(f"activation_checkpointing.offload: true needs mode 'block' or 'mlp', not '{self.mode}'")
        if self.loss_chunk is not None:
            require_positive("activation_checkpointing.loss_chunk", self.loss_chunk)


@dataclass(frozen=True)
class RegularisationConfig:
    """What training drops of the decoder at random. What is kept is scaled up, so that the mean is as without."""

    dropout: float = 0.0
    """Share of the elements of the embeddings, and of the output of attention and feed-forward before it is added, that
    are zero (arXiv 1706.03762, section 5.4)."""
    stochastic_depth: float = 0.0
    """Probability that a row skips attention in the last block, and that it skips the feed-forward there; in block l of
    L both are l / L of it (arXiv 1603.09382)."""

    def __post_init__(self) -> None:
        for key, share in vars(self).items():
            require(f"regularisation.{key}", share, 0 <= share < 1, "a share from 0 to below 1")

    @property
    def is_on(self) -> bool:
        """Whether anything is dropped."""
        return any(vars(self).values())


@dataclass(frozen=True)
class CompileConfig:
    """Each block as one compiled graph, by torch.compile: fewer and larger kernels, whatever the depth of the model."""

    when: Literal["gpu", "always", "never"] = "gpu"
    """Where training compiles: on a GPU, where it needs Triton and a C compiler; always, on a CPU too, where it needs a
    C++ compiler, and with a model of your own; or never. Evaluation is not compiled."""
    mode: Literal["default", "reduce-overhead"] = "default"
    """torch.compile's: reduce-overhead replays CUDA graphs, which whole rows of one length allow."""
    activation_memory_budget: float = 1.0
    """Share of the activations inside a block that are kept for the backward pass, from 0 (recompute all) to 1. In
    place of activation_checkpointing.mode: a block that is recomputed as a whole keeps nothing in any case."""

    def __post_init__(self) -> None:
        budget = self.activation_memory_budget
        require("compile.activation_memory_budget", budget, 0 <= budget <= 1, "a number from 0 to 1")


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
