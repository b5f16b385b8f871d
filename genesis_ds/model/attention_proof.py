"""Which attention kernel really runs: a profile of one block, and a comparison with fp32 math."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.attention import KERNELS, attend, resolve_backend
from genesis_ds.model.block import Block
from genesis_ds.model.documents import PADDING, Documents
from genesis_ds.model.rope import rope_table


@dataclass(frozen=True)
class AttentionProof:
    """What a profile of one attention call showed."""

    kernel: str
    max_error: float
    """Largest difference from fp32 math attention, forward and input gradients, relative to the largest value."""


@contextmanager
def without_stderr() -> Iterator[None]:
    """torch's profiler writes its own start and stop to file descriptor 2, whatever its log level."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def prove_attention(
    config: ModelShape, device: torch.device, dtype: torch.dtype, seq_len: int, packed: bool = False
) -> AttentionProof:
    """Run one block of the model forward and backward, and report which attention kernel did it and how exactly.

    packed: on a row of two documents and padding instead of a whole one. Raises UserError when a forced backend cannot
    run this shape.
    """
    backend = resolve_backend(config.attention, device.type, dtype)
    documents = _two_documents(seq_len, device) if packed else None
    try:
        kernel = _kernel_of_a_block(config, device, dtype, seq_len, documents) or f"unknown ({backend})"
        return AttentionProof(kernel, _error_against_math(config, device, dtype, seq_len, backend, documents))
    except RuntimeError as error:
        raise UserError(
            f"model.attention: '{backend}' cannot run head width {config.head_dim} in {dtype} on {device.type} "
            f"({str(error).splitlines()[0]}); use 'auto'"
        ) from error


def _two_documents(seq_len: int, device: torch.device) -> Documents:
    numbers = torch.full((1, seq_len), PADDING)
    numbers[:, : seq_len // 3] = 0
    numbers[:, seq_len // 3 : seq_len - 1] = 1
    return Documents.of(numbers).to(device)


def _kernel_of_a_block(
    config: ModelShape, device: torch.device, dtype: torch.dtype, seq_len: int, documents: Documents | None
) -> str | None:
    block = Block(config, ActivationCheckpointingConfig()).to(device, dtype)
    rotation = rope_table(seq_len, config.head_dim, config.rope_theta, device)
    x = torch.randn(1, seq_len, config.dim).to(device, dtype)
    with without_stderr(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        block(x, rotation, documents).sum().backward()
    ran = {event.key for event in profile.key_averages()}
    return next((label for name, label in KERNELS.items() if name in ran), None)


def _error_against_math(
    config: ModelShape,
    device: torch.device,
    dtype: torch.dtype,
    seq_len: int,
    backend: str,
    documents: Documents | None,
) -> float:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, seq_len, heads, config.head_dim) for heads in (config.n_heads, config.kv_heads, config.kv_heads)]
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    output = attend(inputs[0], inputs[1], inputs[2], backend, documents)
    with sdpa_kernel(SDPBackend.MATH):
        expected = attend(exact[0], exact[1], exact[2], "sdpa", documents)
    output.sum().backward()
    expected.sum().backward()
    gradients = ([x.grad for x in tensors if x.grad is not None] for tensors in (inputs, exact))
    pairs = [(output.detach(), expected.detach()), *zip(*gradients, strict=True)]
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)
