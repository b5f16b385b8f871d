"""What is looked at: a run, its ds_config, and where this host stands among those that train it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from genesis_ds.checkpoint.load.teacher import teacher_shapes
from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.config.parse import Arguments
from genesis_ds.config.resolve import SizedRun
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.corpus.verses import Corpus
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import accelerator
from genesis_ds.engine.ranks import Ranks
from genesis_ds.tasks.load import sized_run
from genesis_ds.training.preparation import resolve_ds_config

PORT = 29500
"""Where ranks meet, unless the launcher is given another."""
OF_BYTES = 260
"""Token ids of the byte vocabulary."""


@dataclass(frozen=True)
class Case:
    """A run as this host would start it."""

    arguments: Arguments
    host: str = ""
    """The name of this host in the hostfile; "" without one."""
    slots: Mapping[str, int] = field(default_factory=dict)
    """Host -> its ranks, in the order of the hostfile; empty without one."""
    port: int = PORT

    @property
    def config(self) -> RunConfig:
        """The run."""
        return self.arguments.run

    @property
    def n_here(self) -> int:
        """Ranks of this host: as the hostfile says, or one for each GPU."""
        return self.slots.get(self.host) or (torch.cuda.device_count() if accelerator() == "cuda" else 1)

    @property
    def ranks(self) -> Ranks:
        """The first rank of this host."""
        before = list(self.slots)[: list(self.slots).index(self.host)] if self.slots else []
        n_all = sum(self.slots.values()) or self.n_here
        return Ranks(sum(self.slots[host] for host in before), 0, n_all, self.n_here)

    @property
    def shape(self) -> ModelShape:
        """The model's shape; with the vocabulary of bytes where the run leaves it to its tokenizer."""
        return self.config.model.of_vocabulary(self.config.model.vocab_size or OF_BYTES)

    @cached_property
    def corpus(self) -> Corpus:
        """The text, all of it. Raises UserError."""
        return load_corpus(self.config.data.corpus)

    @cached_property
    def resolved(self) -> Resolved:
        """What DeepSpeed would get. Raises UserError."""
        with self.arguments.locating():
            return resolve_ds_config(self.arguments, self.ranks)

    @cached_property
    def sized(self) -> SizedRun:
        """The run with its sizes. Raises UserError."""
        return sized_run(self.config, self.shape, self.resolved, teacher_shapes(self.config))

    def output(self) -> Path:
        """Return the nearest directory of the run's output_dir that is there."""
        path = Path(self.config.output_dir).absolute()
        return next(above for above in (path, *path.parents) if above.exists())
