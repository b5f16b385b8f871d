"""The plan of a micro-step against a trace of the real model, and its general properties."""

from dataclasses import replace

import pytest
import torch
from fake_trace import Trace, trace
from helpers.built_in_heads import heads_of
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_ds.config import ActivationCheckpointingConfig as Checkpointing
from genesis_ds.config import ModelConfig
from genesis_ds.config.presets import preset
from genesis_ds.memory.activations.blocks import Kernels, MicroBatch, micro_step
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready
from genesis_ds.memory.shapes import parameters
from genesis_ds.model.attention import torch_varlen
from genesis_ds.model.multitask import LM

PEAK = 0.002
AT_ANY_POINT = {True: 0.002, False: 0.05}
"""Of the peak, by whether RMSNorm is fused: the composite, recomputed, frees an fp32 tensor earlier than the plan."""
SMALLEST = {False: 64, True: 1 << 14}
"""Bytes, by whether there are heads. What is smaller is left out of both curves: scalars and random state; with heads,
all that an idle one makes of a single state."""
HEADS = ("coherence", "cross_reference", "paraphrase")
FUSED, COMPOSITE, MATH = Kernels(), Kernels(fused_rms_norm=False), Kernels(flash_attention=False)
BY_LENGTH = Kernels(varlen=False)
MODES = [
    Checkpointing("none"),
    Checkpointing("block"),
    Checkpointing("block", every=2),
    Checkpointing("mlp"),
    Checkpointing("block", offload=True),
    Checkpointing("mlp", offload=True),
]


def replay(events, smallest) -> Trace:
    """The curve of a plan. What no operator returns (flash attention's workspace) no trace can see: left out."""
    live, alive, curves = {"gpu": 0, "host": 0}, {}, {}
    seen, phase = Trace(), ""
    for event in events:
        if isinstance(event, str):
            phase, curves[event] = event, []
            seen.stored = live["gpu"]
        elif isinstance(event, Alloc):
            traced = event.nbytes >= smallest and event.cause != "attention workspace"
            alive[event.key] = event.device, event.nbytes if traced else 0
            live[event.device] += alive[event.key][1]
            if event.device == "gpu" and traced:
                curves[phase].append(live["gpu"])
            seen.host_peak = max(seen.host_peak, live["host"])
        elif isinstance(event, Free):
            device, nbytes = alive.pop(event.key)
            live[device] -= nbytes
        elif isinstance(event, Ready):
            seen.ready.append(event.parameter)
    assert not alive
    return replace(seen, forward=curves["forward"], backward=curves["backward"])


def case(kernels, mode, batch_size=2, seq_len=1024, dtype=torch.bfloat16, tasks=(), task=LM, n_documents=60, **shape):
    fields = {"n_layers": 12, "dim": 512, "n_heads": 8, "intermediate_size": 1408, "vocab_size": 260} | shape
    batch = MicroBatch(batch_size, seq_len, task, 0 if task == LM else n_documents)
    return ModelConfig(**fields), tasks, batch, dtype, mode, kernels


def with_heads(kernels, mode, batch_size=2, seq_len=1024, tasks=HEADS, **options):
    return case(kernels, mode, batch_size, seq_len, tasks=tasks, **{"n_layers": 3} | options)


CASES = {
    **{f"deepnorm, {mode}": case(FUSED, mode) for mode in MODES},
    **{f"fused rmsnorm, {mode}": case(FUSED, mode, norm="rmsnorm") for mode in MODES},
    **{f"composite rmsnorm, {mode}": case(COMPOSITE, mode, norm="rmsnorm") for mode in (MODES[0], MODES[1], MODES[5])},
    "math attention, deepnorm": case(MATH, MODES[0], n_layers=3),
    "math attention, rmsnorm, block": case(MATH, MODES[1], norm="rmsnorm", n_layers=3),
    "math attention, GQA, mlp, offload": case(MATH, MODES[5], norm="rmsnorm", n_layers=3, n_kv_heads=2),
    "GQA, deepnorm": case(FUSED, MODES[0], n_layers=3, n_kv_heads=2),
    "GQA, rmsnorm, block": case(FUSED, MODES[1], norm="rmsnorm", n_layers=3, n_kv_heads=1),
    "tied embeddings, 32k": case(FUSED, MODES[0], norm="rmsnorm", n_layers=3, vocab_size=32000, tie_embeddings=True),
    "32k, deepnorm, block": case(FUSED, MODES[1], n_layers=3, vocab_size=32000),
    "32k, rmsnorm, mlp": case(COMPOSITE, MODES[3], norm="rmsnorm", vocab_size=32000, n_layers=12),
    "fp32, deepnorm": case(FUSED, MODES[0], n_layers=3, dtype=torch.float32),
    "fp32, composite rmsnorm, math, block": case(
        Kernels(flash_attention=False, fused_rms_norm=False), MODES[1], norm="rmsnorm", dtype=torch.float32, n_layers=3
    ),
    **{f"fp32 stream, deepnorm, {mode}": case(FUSED, mode, fp32_residual=True) for mode in (*MODES[:2], MODES[3])},
    "fp32 stream, rmsnorm": case(FUSED, MODES[0], norm="rmsnorm", n_layers=3, fp32_residual=True),
    "fp32 stream, composite rmsnorm, block": case(COMPOSITE, MODES[1], norm="rmsnorm", fp32_residual=True),
    "fp32 stream, rmsnorm, mlp, offload": case(FUSED, MODES[5], norm="rmsnorm", fp32_residual=True),
    "fp32 stream in fp32": case(FUSED, MODES[1], n_layers=3, dtype=torch.float32, fp32_residual=True),
    "microscope": case(FUSED, MODES[0], 4, 4096, **preset("microscope")),
    "tower_144's lowest layers, block": case(FUSED, MODES[1], 2, 2048, **preset("tower_144") | {"n_layers": 36}),
    **{f"heads, {mode}": with_heads(FUSED, mode) for mode in (MODES[0], MODES[1], MODES[5])},
    "heads, one, tied embeddings": with_heads(FUSED, MODES[0], tasks=HEADS[2:], tie_embeddings=True),
    "heads, 32k, block": with_heads(FUSED, MODES[1], vocab_size=32000),
    "heads, fp32, rmsnorm": with_heads(FUSED, MODES[0], norm="rmsnorm", dtype=torch.float32),
}


def plan_and_trace(case, record_property):
    model, tasks, batch, dtype, mode, kernels = case
    smallest = SMALLEST[bool(tasks)]
    events = micro_step(model, heads_of(tasks, model.dim), batch, dtype.itemsize, mode, kernels)
    planned = replay(events, smallest)
    real = trace(model, tasks, batch, dtype, mode, kernels, smallest)
    for phase in ("forward", "backward"):
        record_property(f"{phase} peak error", max(getattr(planned, phase)) / max(getattr(real, phase)) - 1)
    record_property("stored error", planned.stored / real.stored - 1)
    assert planned.host_peak == real.host_peak
    assert planned.ready == real.ready
    return planned, real


@pytest.mark.parametrize("name", CASES)
def test_every_point_of_the_plan_is_that_of_the_real_model(name, record_property):
    kernels = CASES[name][-1]
    planned, real = plan_and_trace(CASES[name], record_property)
    for phase in ("forward", "backward"):
        ours, theirs = getattr(planned, phase), getattr(real, phase)
        assert max(ours) == pytest.approx(max(theirs), rel=PEAK)
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        assert worst <= AT_ANY_POINT[kernels.fused_rms_norm] * max(theirs)
    assert planned.stored == pytest.approx(real.stored, rel=PEAK)


VERSE_CASES = {
    **{f"{task}, {mode}": with_heads(FUSED, mode, task=task) for task in HEADS[::2] for mode in MODES[:2]},
    "rmsnorm, GQA, mlp, offload": with_heads(FUSED, MODES[5], task="coherence", norm="rmsnorm", n_kv_heads=2),
    "composite rmsnorm, block": with_heads(COMPOSITE, MODES[1], task="cross_reference", norm="rmsnorm"),
    "tied embeddings, 32k": with_heads(FUSED, MODES[0], task="coherence", vocab_size=32000, tie_embeddings=True),
    "one row, one head": with_heads(FUSED, MODES[0], 1, tasks=HEADS[:1], task="coherence"),
    "many documents, block": with_heads(FUSED, MODES[1], 16, 4096, task="paraphrase", n_documents=3000),
    "fp32 stream, deepnorm, block": with_heads(FUSED, MODES[1], task="coherence", fp32_residual=True),
    "fp32 stream, rmsnorm": with_heads(FUSED, MODES[0], task="paraphrase", norm="rmsnorm", fp32_residual=True),
    "by length, GQA": with_heads(BY_LENGTH, MODES[0], task="coherence", n_kv_heads=2),
    "by length, fp32, block": with_heads(BY_LENGTH, MODES[1], task="paraphrase", dtype=torch.float32),
}


@pytest.mark.skipif(torch_varlen() is None, reason="torch has a kernel for packed documents from 2.10 on")
@pytest.mark.parametrize("name", VERSE_CASES)
def test_the_peaks_of_a_verse_task_are_those_of_the_real_model(name, record_property):
    planned, real = plan_and_trace(VERSE_CASES[name], record_property)
    for phase in ("forward", "backward"):
        assert max(getattr(planned, phase)) == pytest.approx(max(getattr(real, phase)), rel=PEAK)
    assert planned.stored == pytest.approx(real.stored, rel=PEAK)


KERNELS = st.builds(Kernels, st.booleans(), st.booleans())
SHAPES = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 6),
        "dim": st.sampled_from([16, 48]),
        "n_heads": st.sampled_from([2, 4]),
        "n_kv_heads": st.sampled_from([1, 2]),
        "intermediate_size": st.integers(1, 200),
        "vocab_size": st.integers(1, 3000),
        "norm": st.sampled_from(["deepnorm", "rmsnorm"]),
        "tie_embeddings": st.booleans(),
        "fp32_residual": st.booleans(),
    }
)
SIZES = st.integers(1, 4), st.integers(1, 300), st.sampled_from([2, 4])
TASKS = st.sampled_from([((), LM), (HEADS, LM), (HEADS, HEADS[0]), (HEADS[1:], HEADS[2])])


def events(model, tasks, batch_size, seq_len, dtype_bytes, mode, kernels):
    tasks, task = tasks
    batch = MicroBatch(batch_size, seq_len, task, -(-batch_size * seq_len // 64))
    return micro_step(model, heads_of(tasks, model.dim), batch, dtype_bytes, mode, kernels)


def peaks(*arguments):
    """Highest bytes on GPU and host, flash attention's workspace included."""
    live, highest, alive = {"gpu": 0, "host": 0}, {"gpu": 0, "host": 0}, {}
    for event in events(*arguments):
        if isinstance(event, Alloc):
            alive[event.key] = event
            live[event.device] += event.nbytes
            highest[event.device] = max(highest[event.device], live[event.device])
        elif isinstance(event, Free):
            freed = alive.pop(event.key)
            live[freed.device] -= freed.nbytes
    return highest


@settings(max_examples=40)
@given(SHAPES, TASKS, *SIZES, st.sampled_from(MODES), KERNELS)
def test_all_is_freed_and_every_gradient_is_ready_once(shape, tasks, batch_size, seq_len, dtype_bytes, mode, kernels):
    model = ModelConfig(**shape)
    alive, entered, ready = set(), [], []
    for event in events(model, tasks, batch_size, seq_len, dtype_bytes, mode, kernels):
        if isinstance(event, Alloc):
            assert event.nbytes > 0
            assert event.key not in alive
            alive.add(event.key)
        elif isinstance(event, Free):
            alive.remove(event.key)
        elif isinstance(event, Enter):
            assert not entered
            entered.append(event.module)
        elif isinstance(event, Leave):
            assert entered.pop() == event.module
        elif isinstance(event, Ready):
            ready.append(event.parameter)
    assert not alive
    assert not entered
    assert sorted(ready) == sorted(parameter.name for parameter in parameters(model, heads_of(tasks[0], model.dim)))


@pytest.mark.parametrize("mode", MODES, ids=str)
@settings(max_examples=12)
@given(SHAPES, TASKS, *SIZES, KERNELS, st.integers(1, 3))
def test_the_peak_grows_with_layers_batch_and_sequence(
    mode, shape, tasks, batch_size, seq_len, dtype_bytes, kernels, more
):
    model = ModelConfig(**shape)
    deeper = replace(model, n_layers=model.n_layers + more)
    smallest = peaks(model, tasks, batch_size, seq_len, dtype_bytes, mode, kernels)
    for larger in (
        peaks(deeper, tasks, batch_size, seq_len, dtype_bytes, mode, kernels),
        peaks(model, tasks, batch_size + more, seq_len, dtype_bytes, mode, kernels),
        peaks(model, tasks, batch_size, seq_len + more, dtype_bytes, mode, kernels),
    ):
        assert larger["gpu"] >= smallest["gpu"]
        assert larger["host"] >= smallest["host"]


@pytest.mark.parametrize("task", HEADS)
def test_gradients_are_ready_in_one_order_whatever_the_task(task):
    model = ModelConfig(n_layers=2, dim=64, n_heads=4, intermediate_size=192, vocab_size=260)

    def order(task):
        return replay(events(model, (HEADS, task), 2, 256, 2, MODES[0], FUSED), SMALLEST[True]).ready

    assert order(task) == order(LM)


@pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])
def test_checkpointing_stores_less_and_offload_less_still(norm):
    model = ModelConfig(n_layers=12, dim=64, n_heads=4, intermediate_size=192, vocab_size=260, norm=norm)
    none, block, _, mlp, block_on_host, mlp_on_host = (peaks(model, ((), LM), 2, 256, 2, mode, FUSED) for mode in MODES)
    assert none["gpu"] > mlp["gpu"] > block["gpu"] > block_on_host["gpu"]
    assert mlp["gpu"] > mlp_on_host["gpu"]
    assert block_on_host["host"] == mlp_on_host["host"] == 12 * 2 * (2 * 256) * 64
    assert none["host"] == mlp["host"] == block["host"] == 0
