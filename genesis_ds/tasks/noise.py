"""Drawing what training drops: of each row a pure function of the seed, the task and the row's position in it.

So ranks, micro-batches, ZeRO stages and a resumed run all drop the same.
"""

from dataclasses import replace

import numpy as np
import torch

from genesis_ds.config import RunConfig
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.model.noise import KEYS, Noise
from genesis_ds.tasks.base import Batch


class NoiseSource:
    """Draws the noise of a run's micro-batches (`regularisation`)."""

    def __init__(self, run: RunConfig) -> None:
        self.config, self.seed = run.regularisation, run.seed
        depths = np.repeat(np.arange(run.model.n_layers + 1), 2)[1:] / run.model.n_layers
        self.survival = 1 - self.config.stochastic_depth * depths
        """[places]: the probability of each branch; it falls evenly with depth (arXiv 1603.09382, linear decay)."""

    def add(self, batch: Batch, task: str, positions: range) -> Batch:
        """Return the batch at these positions of a task with its noise among the inputs, if the run has any."""
        if not self.config.is_on:
            return batch
        readings = len(batch.inputs["tokens"]) // len(positions)
        return replace(batch, inputs=batch.inputs | {"noise": self.of(task, positions, readings)})

    def of(self, task: str, positions: range, readings: int = 1) -> Noise:
        """Return the noise of the rows at these positions of a task, on the CPU.

        readings: how often the rows stand there, one after the other, each time with noise of their own.
        """
        n = len(self.survival)
        names = [f"{self.seed}/{task}/{position}/{reading}" for reading in range(readings) for position in positions]
        rows = [keyed_bits(f"noise/{name}", 2 * n).reshape(n, 2) for name in names]
        of_depth, of_elements = np.stack(rows).T
        survives = of_depth * 2.0**-64 <= self.survival[:, None]
        scales = survives / (self.survival[:, None] * (1 - self.config.dropout))
        keys = (of_elements % np.uint64(KEYS)).astype(np.int64)
        return Noise(torch.from_numpy(scales.astype(np.float32)), torch.from_numpy(keys), self.config.dropout)
