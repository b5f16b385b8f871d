"""The parameters of the decoder, from its shape alone; torch is not imported."""

import math
from dataclasses import dataclass

from genesis_ds.config import ModelConfig


@dataclass(frozen=True)
class Parameter:
    """One weight of the model."""

    name: str
    """As in Transformer.named_parameters(); a tied output weight is tok_embeddings.weight."""
    shape: tuple[int, ...]
    module: str
    """The unit whose forward uses it: tok_embeddings, layers.N, norm or output."""
    matrix: bool
    """Whether weight decay applies: embeddings and linear layers, not the norms' weights and biases."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def parameters(model: ModelConfig) -> list[Parameter]:
    """All parameters in the order of Transformer(model).named_parameters()."""
    embedding = (model.vocabulary, model.dim)
    found = [Parameter("tok_embeddings.weight", embedding, "tok_embeddings", True)]
    for index in range(model.n_layers):
        found += _block(model, f"layers.{index}")
    found.append(Parameter("norm.weight", (model.dim,), "norm", False))
    if not model.tie_embeddings:
        found.append(Parameter("output.weight", embedding, "output", True))
    return found


def _block(model: ModelConfig, module: str) -> list[Parameter]:
    width, kv_width = model.n_heads * model.head_dim, model.kv_heads * model.head_dim
    matrices = {
        "attention.wq": (width, model.dim),
        "attention.wk": (kv_width, model.dim),
        "attention.wv": (kv_width, model.dim),
        "attention.wo": (model.dim, width),
        "feed_forward.w1": (model.intermediate_size, model.dim),
        "feed_forward.w2": (model.dim, model.intermediate_size),
        "feed_forward.w3": (model.intermediate_size, model.dim),
    }
    parts = ("norm.weight", "norm.bias") if model.norm == "deepnorm" else ("weight",)
    norms = [f"{norm}.{part}" for norm in ("attention_norm", "ffn_norm") for part in parts]
    return [
        *(Parameter(f"{module}.{name}.weight", shape, module, True) for name, shape in matrices.items()),
        *(Parameter(f"{module}.{name}", (model.dim,), module, False) for name in norms),
    ]
