"""What the teacher of a run (`distill`) holds, by a trace of one evaluation of it."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch._subclasses import FakeTensorMode

from genesis_ds.config import DistillConfig, ModelShape
from genesis_ds.config.resolve import SizedRun
from genesis_ds.memory.activations.recorder import META, Recorder
from genesis_ds.memory.activations.substitutes import GpuFunctions
from genesis_ds.memory.deepspeed.timeline import Alloc, Free, Timeline
from genesis_ds.memory.plan import Device
from genesis_ds.model.rope import rope_table
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.distillation import Teacher

DEPTH = 2
"""Layers of a member that is traced: an evaluation keeps nothing of a layer, so that more of them hold no more."""


@dataclass(frozen=True)
class TeacherMemory:
    """Bytes of a teacher."""

    weights: int
    """Of all members, where they are computed."""
    as_read: int
    """Of all members in fp32, as they are read on the host."""
    evaluation: int
    """What one evaluation holds at its peak, the probabilities among it."""
    probabilities: int
    """What stays of it on the host, where it is computed there, until the end of the micro-step: fp32 [B, T, V]."""


def teacher_memory(run: SizedRun, place: Device) -> TeacherMemory:
    """Return what a run's teacher holds on the GPU or on the host."""
    batch, on_gpu = run.config.batch, place == "gpu"
    dtype = torch.bfloat16 if on_gpu and run.ds_config.precision == "bf16" else torch.float32
    numel = sum(shape.n_parameters for shape in run.teachers)
    shallow = tuple(replace(shape, n_layers=min(DEPTH, shape.n_layers), attention="auto") for shape in run.teachers)
    return TeacherMemory(
        weights=numel * dtype.itemsize,
        as_read=numel * 4,
        evaluation=_peak(shallow, batch.micro_batch_size, batch.seq_len, dtype, on_gpu),
        probabilities=4 * batch.micro_batch_size * batch.seq_len * run.model.vocab_size,
    )


@lru_cache(maxsize=16)
def _peak(shapes: tuple[ModelShape, ...], rows: int, seq_len: int, dtype: torch.dtype, gpu: bool) -> int:
    rope_table.cache_clear()
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with nullcontext() if gpu else FakeTensorMode():
            device = META if gpu else torch.device("cpu")
            with device:
                members = [Transformer(shape).eval() for shape in shapes]
            recorder = Recorder("teacher", gpu=gpu)
            recorder.ignore(weight for member in members for weight in member.parameters())
            with GpuFunctions(packs=False) if gpu else nullcontext(), recorder:
                tokens = torch.empty(rows, seq_len, dtype=torch.int64, device=device)
                said = Teacher(DistillConfig(), members).probabilities(tokens)
            del said
    finally:
        torch.set_default_dtype(default)
        rope_table.cache_clear()
    return _highest(recorder)


def _highest(recorder: Recorder) -> int:
    timeline = Timeline()
    for event in recorder.events:
        if isinstance(event, Alloc):
            timeline.alloc(event.key, event.cause, event.nbytes)
        elif isinstance(event, Free):
            timeline.free(event.key)
    return timeline.peak().nbytes
