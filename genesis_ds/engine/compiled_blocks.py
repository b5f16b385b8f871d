"""The decoder's blocks, compiled by torch.compile: one graph for all of them, so that depth costs no compile time.

A block is compiled from the inside of what DeepSpeed hangs on it: under ZeRO-3 its weights are gathered before its
forward and released after it, as those of one leaf module.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from genesis_ds.config import CompileConfig
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.disk import warn
from genesis_ds.engine.distributed import gather
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.model.attention import prepare_for_compiling

LEFT_OUT = "torch.compiler.disable"


def is_on(run: ResolvedRun, device: torch.device, ranks: Ranks) -> bool:
    """Return whether training compiles on the device. Every rank calls it, and all give the same answer.

    Raises UserError where it must, and a rank cannot.
    """
    config = run.config
    if not config.compiles_on(device.type):
        return False
    if orders_differ(run, ranks):
        if ranks.is_main:
            warn("the blocks are not compiled: with several tasks on several ranks that needs ZeRO-3")
        return False
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
        fault = ""
    except Exception as error:  # of whatever compiler is missing
        fault = str(error).strip().partition("\n")[0]
    faults = [of_rank for of_rank in gather(fault) if of_rank]
    if faults and config.compile.when == "always":
        raise UserError(f"compile.when: always, but nothing can be compiled here: {faults[0]}; give never")
    if faults and ranks.is_main:
        warn(f"the blocks are not compiled, and training is slower: {faults[0]}; --compile.when never says that it may")
    return not faults


def orders_differ(run: ResolvedRun, ranks: Ranks) -> bool:
    """Return whether ranks that compile their blocks would add up gradients of different weights.

    ZeRO-1 and 2 fill their buckets in the order in which gradients come. A block that is one graph gives them in
    another order than one whose attention is outside, and ranks compute different tasks at the same time.
    """
    return ranks.world_size > 1 and run.ds_config.zero_stage in (1, 2) and len(run.tasks) > 1


class CompiledBlocks:
    """Takes the blocks' forward to their compiled graph in training, as long as `are_used` is true."""

    def __init__(self, blocks: Iterable[nn.Module], config: CompileConfig) -> None:
        """Wrap the blocks; the first training step compiles."""
        import torch._functorch.config  # the compiler's parts take seconds to import
        from torch._dynamo.utils import counters

        torch._dynamo.reset()  # what an engine before this one has compiled, as after a rewind, counts towards a limit
        prepare_for_compiling()
        self.are_used, self._counters = True, counters
        self._made_before = counters["stats"]["unique_graphs"]
        self._replays = config.mode == "reduce-overhead"
        torch._functorch.config.activation_memory_budget = config.activation_memory_budget
        compiled: dict[type, Callable[..., Any]] = {}
        for block in blocks:
            kind = type(block)
            if kind not in compiled:
                compiled[kind] = torch.compile(kind.forward, mode=config.mode, dynamic=False)
            block.forward = self._choice(block, block.forward, compiled[kind])

    def begin_micro_step(self) -> None:
        """Let CUDA graphs write over what the last micro-batch has left behind."""
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()

    def switch_off(self) -> None:
        """Take the blocks' own forward from now on, so that hooks of the modules within them are called."""
        self.are_used = False

    def n_graphs(self) -> int:
        """Return how many graphs have been compiled since the blocks were wrapped."""
        return int(self._counters["stats"]["unique_graphs"] - self._made_before)

    def breaks(self) -> list[str]:
        """Return why graphs end within a block, in torch's words; not for attention, which is left out on purpose."""
        return [reason.splitlines()[0] for reason in self._counters["graph_break"] if LEFT_OUT not in reason]

    def _choice(
        self, block: nn.Module, forward: Callable[..., Any], compiled: Callable[..., Any]
    ) -> Callable[..., Any]:
        def choose(*inputs: Any, **named: Any) -> Any:
            return compiled(block, *inputs, **named) if self.are_used and block.training else forward(*inputs, **named)

        return choose
