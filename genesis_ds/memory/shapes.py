"""The parameters of the decoder and its heads, from their shapes alone; torch is not imported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genesis_ds.config import ModelConfig
from genesis_ds.config.resolve import SizedRun

LM = "lm"
"""The task whose head is the decoder's own output layer, as in genesis_ds/model/multitask.py."""


@dataclass(frozen=True)
class Parameter:
    """One weight of the model."""

    name: str
    """As in MultiTaskModel.named_parameters(); a tied output weight is base.tok_embeddings.weight."""
    shape: tuple[int, ...]
    module: str
    """The unit whose forward uses it: base.tok_embeddings, base.layers.N, base.norm, base.output or heads.<task>."""
    group: str
    """Its parameter group, as in engine/engine.py: matrices, norms, or the task whose head it belongs to."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def run_parameters(run: SizedRun) -> list[Parameter]:
    """All parameters of a run's model."""
    return parameters(run.model, run.heads, run.config.verse_tasks.projection_dim)


def parameters(model: ModelConfig, tasks: Sequence[str] = (), projection_dim: int = 128) -> list[Parameter]:
    """All parameters in the order of MultiTaskModel.named_parameters(). tasks: those with a head, LM not among them.

    So the groups come in the order of engine/engine.py's parameter_groups.
    """
    embedding = (model.vocabulary, model.dim)
    found = [Parameter("base.tok_embeddings.weight", embedding, "base.tok_embeddings", "matrices")]
    for index in range(model.n_layers):
        found += _block(model, f"base.layers.{index}")
    found.append(Parameter("base.norm.weight", (model.dim,), "base.norm", "norms"))
    if not model.tie_embeddings:
        found.append(Parameter("base.output.weight", embedding, "base.output", LM))
    for task in tasks:
        found += _head(model.dim, task, projection_dim)
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
        *(Parameter(f"{module}.{name}.weight", shape, module, "matrices") for name, shape in matrices.items()),
        *(Parameter(f"{module}.{name}", (model.dim,), module, "norms") for name in norms),
    ]


def _head(dim: int, task: str, projection_dim: int) -> list[Parameter]:
    hidden, output = ((dim, 4 * dim), (1, dim)) if task == "coherence" else ((dim, dim), (projection_dim, dim))
    module = f"heads.{task}"
    return [
        Parameter(f"{module}.hidden.weight", hidden, module, task),
        Parameter(f"{module}.output.weight", output, module, task),
    ]
