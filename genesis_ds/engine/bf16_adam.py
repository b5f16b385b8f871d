"""AdamW on bf16 masters and bf16 moments that loses no small update: kernels/bf16_adam.cpp in DeepSpeedCPUAdam's place.

DeepSpeed rounds bf16 masters to the nearest bf16, and an update below half a step of that is lost. Here masters and
moments are rounded stochastically, or the masters keep a compensation (Kahan's sum). DeepSpeedCPUAdam stays, and with
it what DeepSpeed asks of its type, the hooks around it and the checkpoints: only the C++ call inside it is another.

The noise of an element depends on the run's seed, the parameter's name, the element's place in the whole parameter and
the parameter's count of updates. So it is the same on any number of ranks, under every ZeRO stage and in a resumed run.
"""

import ctypes
import math
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.ds_config.precision import MasterRounding
from genesis_ds.engine import compiled_ops, internals
from genesis_ds.engine.internals import DeepSpeedEngine
from genesis_ds.engine.parameter_slices import parameter_slices
from genesis_ds.optimizers.registry import COMPENSATION

SLICE = np.dtype([("start", "i8"), ("numel", "i8"), ("offset", "i8"), ("key", "u8")])
"""A part of a parameter in a flat tensor: where it starts there, its elements, where it starts in the parameter, and
the parameter's key."""


class _Settings(ctypes.Structure):
    """The kernel's Settings."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "step_size", "scale2", "eps", "keep")
    )


@cache
def _library() -> ctypes.CDLL:
    compiled_ops.build("bf16_adam")
    library = ctypes.CDLL(str(compiled_ops.library("bf16_adam")))
    pointer = ctypes.c_void_p
    library.bf16_adam.argtypes = (*6 * [pointer], ctypes.c_int64, ctypes.c_uint64, pointer, ctypes.c_int)
    library.bf16_adam.restype = None
    return library


def parameter_key(seed: int, name: str) -> int:
    """Return what the noise of a parameter begins from: 64 bits of the run's seed and the parameter's name."""
    return int(keyed_bits(f"master rounding {seed} {name}", 1)[0])


def bf16_adam_update(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    compensation: Tensor | None,
    *,
    slices: np.ndarray,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update weights and moments in place by AdamW (arXiv 1711.05101, algorithm 2), where a slice has them.

    tensors: weights, gradient, first and second moment, and the compensation, are bf16 on the host and of one size,
    contiguous. compensation: what rounding has cut off the weights; None: they are rounded stochastically. slices:
    SLICE of shape [n]. step: of the update, from 1 on.
    """
    beta1, beta2 = betas
    settings = _Settings(
        *(beta1, 1 - beta1, beta2, 1 - beta2),
        step_size=lr / (1 - beta1**step),
        scale2=1 / math.sqrt(1 - beta2**step),
        eps=eps,
        keep=1 - lr * weight_decay,
    )
    given = (*tensors, *(() if compensation is None else (compensation,)))
    assert all(each.dtype == torch.bfloat16 and each.is_contiguous() and each.device.type == "cpu" for each in given)
    assert len({each.numel() for each in given}) == 1
    assert slices.dtype == SLICE
    assert slices.flags.c_contiguous
    _library().bf16_adam(
        *(each.data_ptr() for each in tensors),
        None if compensation is None else compensation.data_ptr(),
        slices.ctypes.data,
        len(slices),
        step,
        ctypes.byref(settings),
        torch.get_num_threads(),
    )


class Bf16Adam:
    """What a DeepSpeedCPUAdam calls in the place of its C++ operation."""

    def __init__(self, optimizer: Optimizer, slices: dict[Tensor, np.ndarray], compensates: bool) -> None:
        """slices: those of each tensor that the optimizer updates. compensates: Kahan's sum instead of noise."""
        self._optimizer, self._compensates = optimizer, compensates
        self._operation = internals.replace_cpu_adam_operation(optimizer, self)
        self._slices = {tensor.data_ptr(): (tensor, table) for tensor, table in slices.items()}

    def adam_update(
        self,
        opt_id: int,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        weights: Tensor,
        *tensors: Tensor,
    ) -> None:
        """Update one tensor of the optimizer's; the arguments are those of DeepSpeed's operation."""
        tensor, slices = self._slices[weights.data_ptr()]
        gradient, moment1, moment2 = tensors
        assert bias_correction
        bf16_adam_update(
            (weights, gradient, moment1, moment2),
            self._compensation(tensor) if self._compensates else None,
            slices=slices,
            step=step,
            lr=lr,
            betas=(beta1, beta2),
            eps=eps,
            weight_decay=weight_decay,
        )

    def destroy_adam(self, opt_id: int) -> None:
        """Let go of what DeepSpeed's operation keeps of the optimizer, when that goes."""
        self._operation.destroy_adam(opt_id)

    def _compensation(self, tensor: Tensor) -> Tensor:
        state = self._optimizer.state[tensor]
        if COMPENSATION not in state:
            state[COMPENSATION] = torch.zeros_like(tensor, requires_grad=False)
        compensation: Tensor = state[COMPENSATION]
        return compensation


def round_masters(engine: DeepSpeedEngine, rounding: MasterRounding, *, seed: int, rank: int) -> None:
    """Have the engine's DeepSpeedCPUAdam round its bf16 masters so that small updates are not lost."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in engine.module.named_parameters()}
    found: dict[Tensor, list[tuple[int, int, int, int]]] = defaultdict(list)
    for span in parameter_slices(engine, rank):
        key = parameter_key(seed, names[span.parameter])
        found[span.tensor].append((span.start, span.numel, span.offset, key))
    tables = {tensor: slice_table(found[tensor]) for tensor in internals.flat_masters(engine)}
    Bf16Adam(internals.torch_optimizer(engine), tables, compensates=rounding == "kahan")


def slice_table(slices: Iterable[tuple[int, int, int, int]]) -> np.ndarray:
    """Return slices (start, numel, offset, key) as the kernel reads them; SLICE of shape [n]."""
    return np.array(list(slices), dtype=SLICE)
