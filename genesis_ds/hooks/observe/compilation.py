"""What torch.compile makes of the blocks: how many graphs, and why one ends within a block."""

from genesis_ds import metrics
from genesis_ds.engine.compiled_blocks import CompiledBlocks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext


class Compilation(Hook):
    """Counts the compiled graphs, and tells when there are more: after the first steps there should be none."""

    def __init__(self, blocks: CompiledBlocks, every: int) -> None:
        self.blocks, self.every, self.n_graphs = blocks, every, 0

    @classmethod
    def build(cls, context: HookContext) -> "Compilation | None":
        """Return the hook of a run that compiles its blocks."""
        blocks = context.engine.compiled_blocks
        return cls(blocks, context.run.intervals.log) if blocks else None

    def on_step(self, record: StepRecord) -> None:
        if not record.due(self.every):
            return
        record.metrics[metrics.GRAPHS] = n_graphs = self.blocks.n_graphs()
        if n_graphs != self.n_graphs:
            breaks = f"; a graph ends early: {', '.join(found)}" if (found := self.blocks.breaks()) else ""
            record.texts[metrics.COMPILED] = f"blocks compiled to {n_graphs} graphs{breaks}"
        self.n_graphs = n_graphs
