"""Weight layers that initialise themselves.

Under ZeRO-3 a weight is partitioned the moment its module's constructor ends, so a later pass over the finished
model would find empty tensors. Values are drawn on the CPU in fp32, so that a seed gives one set of weights whatever
the device, the precision and the ZeRO stage. On the meta device, where a model waits for the weights of a file, none
are drawn.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def normal(shape: torch.Size, std: float) -> Tensor:
    """N(0, std) in fp32 on the CPU. Not by torch.randn, which zero.Init replaces by one that rounds to bf16."""
    return torch.normal(0.0, std, shape, dtype=torch.float32, device="cpu")


class Linear(nn.Linear):
    """A linear layer without bias. gain: Xavier-normal with that gain; None: torch's default initialisation."""

    def __init__(self, n_in: int, n_out: int, gain: float | None) -> None:
        self.gain = gain
        super().__init__(n_in, n_out, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return
        n_out, n_in = self.weight.shape
        if self.gain is None:  # torch's default: kaiming_uniform_(a=sqrt(5)), that is U(-1/sqrt(n_in), 1/sqrt(n_in))
            bound = 1 / math.sqrt(n_in)
            values = (torch.rand(n_out, n_in, dtype=torch.float32, device="cpu") * 2 - 1) * bound
        else:
            values = normal(self.weight.shape, std=self.gain * math.sqrt(2 / (n_in + n_out)))
        self.weight.copy_(values)


class Embedding(nn.Embedding):
    """Token embeddings, N(0, std). Called with a read_out it is the tied output layer (see `model/output.py`)."""

    def __init__(self, vocab_size: int, dim: int, std: float = 1.0) -> None:
        self.std = std
        super().__init__(vocab_size, dim)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return
        self.weight.copy_(normal(self.weight.shape, self.std))

    def forward(self, x: Tensor, read_out: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Token ids [B, T] -> [B, T, D]; with read_out, what it makes of hidden states [B, T, D] and the weight."""
        return read_out(x, self.weight) if read_out else super().forward(x)
