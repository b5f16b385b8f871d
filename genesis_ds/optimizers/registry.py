"""The built-in optimizers: a name, where the class is, and what it keeps of a weight. Nothing is imported here."""

from typing import NamedTuple

ADAMW = "adamw"
"""The one that DeepSpeed builds, from a section of the ds_config; every other is handed to it built."""
MUON = "muon"
BLOCKS = "blocks"
"""The parameter group of the blocks' matrices, for an optimizer that treats them otherwise."""
WEIGHT, STEP, GROKFAST_AVERAGE, COMPENSATION = "weight", "step", "grokfast_ema", "compensation"
WEIGHT_AVERAGE = "weight_average"
"""What a checkpoint has of a parameter besides the tensors of the optimizer: the weight, how many updates it has had,
the average that Grokfast keeps of its gradient, what rounding has cut off a bf16 master (Kahan's sum), and the
average of the weight."""
N_AVERAGED = "n_averaged"
"""What a checkpoint has of all of them: how many updates the averages of the weights are of."""


class Entry(NamedTuple):
    """An optimizer that a run may name as `optimizer.name`."""

    path: str
    """module:Class, derived from torch.optim.Optimizer."""
    state_tensors: tuple[str, ...]
    """The tensors of a weight's shape that its state keeps, by their names there."""
    of_blocks: tuple[str, ...] | None = None
    """The same of the group BLOCKS, where the optimizer wants one."""


OPTIMIZERS = {
    ADAMW: Entry("torch.optim:AdamW", ("exp_avg", "exp_avg_sq")),
    MUON: Entry("genesis_ds.optimizers.muon:Muon", ("exp_avg", "exp_avg_sq"), of_blocks=("momentum_buffer",)),
    "sgd": Entry("torch.optim:SGD", ("momentum_buffer",)),
}
