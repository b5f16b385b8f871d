"""The built-in hooks: their names, classes and turns. Nothing is imported here."""

from typing import Literal, NamedTuple

Phase = Literal["measure", "detect", "write"]
PHASES: tuple[Phase, ...] = ("measure", "detect", "write")
"""The turns of the hooks at each step: they measure, look for events in it, and write it (on the main rank alone)."""


class Entry(NamedTuple):
    """A hook that every run has unless its `build` says otherwise."""

    path: str
    """module:Class."""
    phase: Phase


HOOKS = {
    "throughput": Entry("genesis_ds.hooks.observe.throughput:Throughput", "measure"),
    "compilation": Entry("genesis_ds.hooks.observe.compilation:Compilation", "measure"),
    "memory": Entry("genesis_ds.hooks.observe.memory:Memory", "measure"),
    "tasks": Entry("genesis_ds.hooks.evaluate.tasks:EvaluateTasks", "measure"),
    "memorisation": Entry("genesis_ds.hooks.evaluate.memorisation:Memorisation", "measure"),
    "canaries": Entry("genesis_ds.hooks.evaluate.canaries:CanaryExposure", "measure"),
    "samples": Entry("genesis_ds.hooks.evaluate.samples:Samples", "measure"),
    "alignment": Entry("genesis_ds.hooks.evaluate.alignment:Alignment", "measure"),
    "clustering": Entry("genesis_ds.hooks.evaluate.clustering:Clustering", "measure"),
    "connectives": Entry("genesis_ds.hooks.evaluate.connectives:Connectives", "measure"),
    "progress": Entry("genesis_ds.hooks.evaluate.progress:ProgressMeasures", "measure"),
    "trajectory": Entry("genesis_ds.hooks.observe.trajectory:Trajectory", "measure"),
    "health": Entry("genesis_ds.hooks.observe.health:Health", "measure"),
    "plateau": Entry("genesis_ds.hooks.observe.plateau:Plateau", "detect"),
    "grokking": Entry("genesis_ds.hooks.observe.grokking:Grokking", "detect"),
    "ranks": Entry("genesis_ds.hooks.observe.weight_ranks:WeightRanks", "detect"),
    "console": Entry("genesis_ds.hooks.write.console:Console", "write"),
    "json_lines": Entry("genesis_ds.hooks.write.json_lines:JsonLines", "write"),
    "tensorboard": Entry("genesis_ds.hooks.write.tensorboard:TensorBoard", "write"),
}
EARLIER_NAMES = {"grokking": "Grokking", "trajectory": "Trajectory"}
"""Name of a hook -> its name in older checkpoints, whose states have no version."""
