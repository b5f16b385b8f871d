"""What a compiled block keeps for its backward pass besides its input, predicted by torch's own partitioner.

A measured graph has been through more passes than this one, and keeps less: on an H200 15.7, 4.4 and 0.7 TD with
budgets of 1, 0.3 and 0.1, where this says 16.1, 5.1 and 1.1 (T tokens of width D = 768, bf16, 12 heads, torch 2.11).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape, RegularisationConfig
from genesis_ds.memory.activations.substitutes import GpuFunctions
from genesis_ds.model.block import Block
from genesis_ds.model.noise import Noise
from genesis_ds.model.rope import rope_table

META = torch.device("meta")
VIEWS = ("permute", "view", "_unsafe_view", "alias", "unsqueeze", "expand", "select", "slice", "t", "transpose")
"""Operators whose output is in the storage of their input."""


@lru_cache(maxsize=64)
def kept_bytes(
    shape: ModelShape,
    *,
    rows: int,
    seq_len: int,
    dtype: torch.dtype,
    packed: bool,
    budget: float,
    regularisation: RegularisationConfig,
) -> int:
    """Return the bytes that one compiled block keeps on a micro-batch of [rows, seq_len] tokens.

    packed: attention, over packed verses, is not a part of the graph, and keeps queries, keys, values and its output
    whatever the budget (`compile.activation_memory_budget`).
    """
    import torch._functorch.config
    from functorch.compile import aot_function, make_boxed_func

    with META:
        block = _of_dtype(dtype, lambda: Block(shape, ActivationCheckpointingConfig()))
    found = _Kept()
    names, weights = zip(*block.named_parameters(), strict=True)

    def forward(weights: Sequence[Tensor], x: Tensor, rotation: Tensor, drawn: Sequence[Tensor]) -> Any:
        named = {"noise": Noise(drawn[0], drawn[1], regularisation.dropout) if drawn else None}
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (x, rotation), named)

    stream = torch.float32 if shape.fp32_residual else dtype
    x = torch.empty(rows, seq_len, shape.dim, dtype=stream, device=META, requires_grad=True)
    rotation = rope_table(seq_len, shape.head_dim, shape.rope_theta, META)
    noise = Noise.empty(1, rows, regularisation.dropout, META).of_block(0)

    def as_it_is(graph: fx.GraphModule, _: Any) -> Any:
        return make_boxed_func(graph)

    with torch._functorch.config.patch(activation_memory_budget=budget), GpuFunctions(packs=True):
        traced = aot_function(forward, as_it_is, as_it_is, found.partition, decompositions=_decompositions())
        traced(weights, x, rotation, (noise.scales, noise.keys) if regularisation.is_on else ())
    width = 2 * (shape.n_heads + shape.kv_heads) * shape.head_dim
    return found.nbytes + (rows * seq_len * width * dtype.itemsize if packed else 0)


class _Kept:
    """A partition function that counts what the backward graph takes of the forward's."""

    def __init__(self) -> None:
        self.nbytes = 0

    def partition(
        self, joint: fx.GraphModule, inputs: Any, *, num_fwd_outputs: int, **options: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        from functorch.compile import min_cut_rematerialization_partition

        forward, backward = min_cut_rematerialization_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, **options
        )
        [output] = (node for node in forward.graph.nodes if node.op == "output")
        kept = {_owner(node) for node in output.args[0][num_fwd_outputs:] if isinstance(node, fx.Node)}
        made = [node.meta["val"] for node in kept if node.op != "placeholder"]
        self.nbytes = sum(value.numel() * value.itemsize for value in made if isinstance(value, Tensor))
        return forward, backward


def _owner(node: fx.Node) -> fx.Node:
    """Return the node whose storage a view is in."""
    while node.op == "call_function" and str(node.target).split(".")[1:2] and _operator(node) in VIEWS:
        node = node.all_input_nodes[0]
    return node


def _operator(node: fx.Node) -> str:
    return str(node.target).split(".")[1]


def _decompositions() -> dict[Any, Callable[..., Any]]:
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def _of_dtype(dtype: torch.dtype, make: Callable[[], nn.Module]) -> nn.Module:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make()
    finally:
        torch.set_default_dtype(default)
