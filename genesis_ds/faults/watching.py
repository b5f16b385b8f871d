"""Where in a model a number is first not finite. Each look waits for the device: it is for a run that has failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from genesis_ds.engine.engine import Engine


class Watched:
    """The first values that were not finite in a forward and a backward pass so far."""

    def __init__(self) -> None:
        self.activation: str | None = None
        """The first module whose output was not finite; one that contains others comes after them."""
        self.gradient: str | None = None
        """The first parameter whose gradient was not finite; the backward pass begins at the loss."""

    def see_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Look at a module's output, as a forward hook."""
        tensors = output if isinstance(output, tuple) else (output,)
        if self.activation is None and not all(map(_is_finite, tensors)):
            self.activation = name

    def see_gradient(self, name: str, gradient: Tensor) -> None:
        """Look at a parameter's gradient, as a hook of it."""
        if self.gradient is None and not _is_finite(gradient):
            self.gradient = name


@contextmanager
def watching(model: nn.Module) -> Iterator[Watched]:
    """Look at every module's output and at every parameter's gradient on this rank, before it is added to others."""
    watched = Watched()
    handles = [
        module.register_forward_hook(partial(watched.see_output, name or "the model"))
        for name, module in model.named_modules()
    ]
    handles += [
        parameter.register_hook(partial(watched.see_gradient, name)) for name, parameter in model.named_parameters()
    ]
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def faulty_weights(engine: Engine) -> list[str]:
    """Return the names of the parameters that hold a number that is not finite. Every rank calls it."""
    return [name for name, weight in engine.weights() if not _is_finite(weight)]


def _is_finite(value: Any) -> bool:
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.numel()):
        return True
    return isfinite(torch.linalg.vector_norm(value.detach(), inf))  # unlike torch.isfinite, it takes no memory
