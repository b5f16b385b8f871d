"""The ranks of a run: the processes that train it together, as their launcher has told them."""

import os
from dataclasses import dataclass

from genesis_ds.environment import LAUNCHER, whole_number
from genesis_ds.errors import UserError

MOST_RANKS = 100_000
STARTERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun"}
"""Variables by which a starter of plain tasks says how many there are -> its name."""


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among the processes of the run."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int = 1
    """Ranks on this node."""

    @property
    def nodes(self) -> int:
        """Nodes of the run, all with as many ranks."""
        return self.world_size // self.local_world_size

    @property
    def is_main(self) -> bool:
        """True on the one process that prints and writes for all."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Ranks":
        """What the launcher has set; one process where nothing has. Raises UserError for what no launcher sets."""
        _refuse_plain_tasks()
        world_size = whole_number("WORLD_SIZE", 1, 1, MOST_RANKS)
        rank = whole_number("RANK", 0, 0, world_size - 1)
        # torchrun and the deepspeed launcher name the number of ranks on this node differently.
        named = "LOCAL_WORLD_SIZE" if os.environ.get("LOCAL_WORLD_SIZE") else "LOCAL_SIZE"
        local_world_size = whole_number(named, world_size, 1, world_size)
        local_rank = whole_number("LOCAL_RANK", 0, 0, local_world_size - 1)
        if world_size > 1 and not os.environ.get("MASTER_PORT"):
            raise UserError(f"MASTER_PORT: not set, but WORLD_SIZE is {world_size}; {LAUNCHER}")
        return cls(rank, local_rank, world_size, local_world_size)


def _refuse_plain_tasks() -> None:
    """Raise UserError where srun or mpirun has started several processes that know nothing of each other."""
    for name, starter in STARTERS.items():
        if not os.environ.get("RANK") and (n_tasks := whole_number(name, 1, 1, MOST_RANKS, "unset it")) > 1:
            raise UserError(
                f"{starter} has started {n_tasks} tasks, but RANK is not set, so each would train alone; have it "
                "start one torchrun per node: sbatch launch/slurm.sh, or "
                f"{starter} -n NODES torchrun --nnodes NODES --nproc_per_node GPUS --rdzv_backend c10d "
                "--rdzv_endpoint FIRST_NODE:29500 launch/train.py"
            )
