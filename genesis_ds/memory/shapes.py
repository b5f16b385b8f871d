"""The parameters of a run's model, made on torch's meta device, where it has shapes alone."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import nn

from genesis_ds.config import ModelShape
from genesis_ds.config.resolve import SizedRun
from genesis_ds.model.multitask import LM
from genesis_ds.model.norm import NORMS
from genesis_ds.model.own import meta_trunk
from genesis_ds.model.transformer import Transformer
from genesis_ds.model.trunk import Trunk
from genesis_ds.optimizers.load import separates_blocks
from genesis_ds.optimizers.registry import BLOCKS
from genesis_ds.tasks.load import meta_heads

NO_HEADS: Mapping[str, nn.Module] = {}
BLOCK = re.compile(r"(base\.(?:layers|model\.blocks)\.)(\d+)")
"""The name of a decoder block, or of one of a user's own model, and its number."""
FIRST_BLOCK = "base.layers.0"


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
    """Its parameter group, as in engine/engine.py: matrices, blocks, norms, or the task whose head it belongs to."""

    @cached_property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def run_parameters(run: SizedRun) -> list[Parameter]:
    """Return all parameters of a run's model and heads, with the groups that its optimizer wants."""
    found = parameters(run.model, meta_heads(run.config, run.heads), run.config.extensions.model)
    if not separates_blocks(run.config):
        return found
    return [replace(each, group=BLOCKS) if each.group == "matrices" and is_of_block(each) else each for each in found]


def is_of_block(parameter: Parameter) -> bool:
    """Return whether a parameter is a matrix of a block."""
    return BLOCK.match(parameter.module) is not None and len(parameter.shape) == 2


def parameters(model: ModelShape, heads: Mapping[str, nn.Module] = NO_HEADS, own: str | None = None) -> list[Parameter]:
    """Return all parameters in the order of MultiTaskModel.named_parameters(); a tied one once.

    So the groups come in the order of engine/engine.py's parameter_groups. heads: by task, of which shapes count. own:
    extensions.model, in the decoder's place.
    """
    of_heads = [
        Parameter(f"heads.{task}.{name}", tuple(weight.shape), f"heads.{task}", task)
        for task, head in heads.items()
        for name, weight in head.named_parameters()
    ]
    return [*_trunk_parameters(model, own), *of_heads]


@lru_cache(maxsize=16)
def _trunk_parameters(shape: ModelShape, own: str | None) -> tuple[Parameter, ...]:
    if own:
        return tuple(trunk_parameters(meta_trunk(own, shape)))
    with torch.device("meta"):
        shallow = trunk_parameters(Transformer(replace(shape, n_layers=1)))
    first = [weight for weight in shallow if weight.module == FIRST_BLOCK]
    start = shallow.index(first[0])
    blocks = [_moved(weight, index) for index in range(shape.n_layers) for weight in first]
    return (*shallow[:start], *blocks, *shallow[start + len(first) :])


def _moved(weight: Parameter, index: int) -> Parameter:
    module = f"base.layers.{index}"
    return replace(weight, name=module + weight.name.removeprefix(FIRST_BLOCK), module=module)


def trunk_parameters(trunk: Trunk) -> list[Parameter]:
    """Return the parameters of what the heads stand on; a tied one once."""
    assert isinstance(trunk, nn.Module), "a trunk is a module"
    found: dict[nn.Parameter, Parameter] = {}
    for module, layer in trunk.named_modules(prefix="base"):
        group = LM if layer is trunk.output else "norms" if isinstance(layer, NORMS) else "matrices"
        block = BLOCK.match(module)
        for name, weight in layer.named_parameters(recurse=False):
            unit = block[0] if block else module
            found.setdefault(weight, Parameter(f"{module}.{name}", tuple(weight.shape), unit, group))
    return list(found.values())


def are_alike(parameters: Sequence[Parameter], period: int) -> bool:
    """Return whether every block has the weights of the one a period before it."""
    blocks: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for weight in parameters:
        if BLOCK.fullmatch(weight.module):
            blocks.setdefault(weight.module, []).append((weight.name.removeprefix(weight.module), weight.shape))
    found = list(blocks.values())
    return found[period:] == found[:-period]
