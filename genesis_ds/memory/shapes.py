"""The parameters of the decoder, from its shape alone; of a user's own model, from the model; and of the heads."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from genesis_ds.config import ModelShape
from genesis_ds.config.resolve import SizedRun
from genesis_ds.model.multitask import LM
from genesis_ds.model.norm import NORMS
from genesis_ds.model.own import OwnTrunk, meta_trunk
from genesis_ds.tasks.load import meta_heads

NO_HEADS: Mapping[str, nn.Module] = {}


@dataclass(frozen=True)
class Parameter:
    """One weight of the model."""

    name: str
    """As in MultiTaskModel.named_parameters(); a tied output weight is base.tok_embeddings.weight."""
    shape: tuple[int, ...]
    module: str
    """The unit whose forward uses it: base.tok_embeddings, base.layers.N, base.norm, base.output or heads.<task>; in a
    user's own model base.model.blocks.N, or else the module that has it."""
    group: str
    """Its parameter group, as in engine/engine.py: matrices, norms, or the task whose head it belongs to."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def run_parameters(run: SizedRun) -> list[Parameter]:
    """Return all parameters of a run's model and heads."""
    path, heads = run.config.extensions.model, meta_heads(run.config, run.heads)
    if path is None:
        return parameters(run.model, heads)
    return [*own_parameters(meta_trunk(path, run.model)), *head_parameters(heads)]


def parameters(model: ModelShape, heads: Mapping[str, nn.Module] = NO_HEADS) -> list[Parameter]:
    """Return all parameters in the order of MultiTaskModel.named_parameters(). heads: by task, of which shapes count.

    So the groups come in the order of engine/engine.py's parameter_groups.
    """
    embedding = (model.vocab_size, model.dim)
    found = [Parameter("base.tok_embeddings.weight", embedding, "base.tok_embeddings", "matrices")]
    for index in range(model.n_layers):
        found += _block(model, f"base.layers.{index}")
    found.append(Parameter("base.norm.weight", (model.dim,), "base.norm", "norms"))
    if not model.tie_embeddings:
        found.append(Parameter("base.output.weight", embedding, "base.output", LM))
    return [*found, *head_parameters(heads)]


def head_parameters(heads: Mapping[str, nn.Module]) -> list[Parameter]:
    """Return the parameters of the tasks' heads."""
    return [
        Parameter(f"heads.{task}.{name}", tuple(weight.shape), f"heads.{task}", task)
        for task, head in heads.items()
        for name, weight in head.named_parameters()
    ]


def own_parameters(trunk: OwnTrunk) -> list[Parameter]:
    """Return the parameters of a user's own model, with the norm and the output layer over it; a tied one once."""
    found: dict[nn.Parameter, Parameter] = {}
    for module, layer in trunk.named_modules(prefix="base"):
        group = LM if layer is trunk.output else "norms" if isinstance(layer, NORMS) else "matrices"
        block = re.match(r"base\.model\.blocks\.\d+", module)
        for name, weight in layer.named_parameters(recurse=False):
            unit = block[0] if block else module
            found.setdefault(weight, Parameter(f"{module}.{name}", tuple(weight.shape), unit, group))
    return list(found.values())


def _block(model: ModelShape, module: str) -> list[Parameter]:
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
