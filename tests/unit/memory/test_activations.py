"""The micro-step that a trace of the real model gives: closed forms, repetition, and what it says of every model."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_ds.config import ActivationCheckpointingConfig as Checkpointing
from genesis_ds.config import ModelShape, RegularisationConfig, TokenizerConfig, VerseTasksConfig
from genesis_ds.extensions import import_class
from genesis_ds.memory.activations.micro_step import TOKENS_PER_VERSE, _micro_step
from genesis_ds.memory.activations.repeat import NotPeriodicError, repeat, traced_depth
from genesis_ds.memory.activations.trace import MicroBatch, Traced, trace
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Timeline
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.registry import TASKS
from genesis_ds.tokenizer import Kind

HEADS = ("coherence", "cross_reference", "paraphrase")
MODES = [
    Checkpointing("none"),
    Checkpointing("block"),
    Checkpointing("block", every=2),
    Checkpointing("mlp"),
    Checkpointing("block", offload=True),
    Checkpointing("mlp", offload=True),
    Checkpointing("swiglu"),
    Checkpointing("elementwise"),
    Checkpointing("block", loss_chunk=300),
]
B, T, D, F, H, V = 2, 1024, 512, 1408, 8, 260
ROWS = B * T


def traced(mode=MODES[0], *, heads=(), task=LM, n_documents=0, gpu=True, dtype=torch.bfloat16, size=B, seq_len=T, **of):
    shape = ModelShape(
        **{"n_layers": 12, "dim": D, "n_heads": H, "intermediate_size": F, "vocab_size": V, "norm": "rmsnorm"} | of
    )
    batch = MicroBatch(size, seq_len, task, n_documents or (0 if task in (LM, "multi_token") else 60))
    return Traced(shape, mode, batch, dtype, gpu, heads=tuple((name, import_class(TASKS[name].path)) for name in heads))


def played(events):
    """Return the timelines of the GPU and of the host, and what the GPU holds between forward and backward."""
    gpu, host, stored = Timeline(), Timeline(), 0
    for event in events:
        match event:
            case str():
                stored = gpu.allocated
                gpu.start(event)
            case Alloc():
                (gpu if event.device == "gpu" else host).alloc(event.key, event.cause, event.nbytes)
            case Free():
                gpu.free(event.key)
                host.free(event.key)
    assert gpu.allocated == host.allocated == 0
    return gpu, host, stored


def stored_per_layer(**of):
    stored = [played(trace(traced(n_layers=n, **of)).events)[2] for n in (3, 4)]
    return stored[1] - stored[0]


@pytest.mark.parametrize("kv_heads", [H, 2])
def test_a_block_saves_what_the_closed_form_says(kv_heads):
    kv = D // H * kv_heads
    expected = (12 * D + 4 * kv + 8 * F + 4 * H + 8) * ROWS  # bf16, fused RMSNorm, flash attention, SwiGLU
    assert stored_per_layer(n_kv_heads=kv_heads) == expected
    assert stored_per_layer(mode=MODES[1], n_kv_heads=kv_heads) == 2 * D * ROWS
    assert stored_per_layer(mode=MODES[3], n_kv_heads=kv_heads) == expected - (8 * F + 2 * D + 4) * ROWS
    assert stored_per_layer(mode=MODES[4], n_kv_heads=kv_heads) == 0
    assert stored_per_layer(mode=MODES[6], n_kv_heads=kv_heads) == expected - 4 * F * ROWS
    products = (8 * D + 4 * kv + 4 * F + 4 * H) * ROWS  # queries, attention, wo, w2; keys, values; gate, up; log-sums
    assert stored_per_layer(mode=MODES[7], n_kv_heads=kv_heads) == 2 * D * ROWS + products


@pytest.mark.parametrize("mode", MODES[:2])
def test_dropout_keeps_a_byte_for_each_element_of_a_block_that_is_not_computed_again(mode):
    def per_layer(**of):
        cases = [traced(mode, n_layers=n, norm="deepnorm") for n in (3, 4)]
        noisy = [replace(case, batch=replace(case.batch, regularisation=RegularisationConfig(**of))) for case in cases]
        stored = [played(trace(case).events)[2] for case in noisy]
        return stored[1] - stored[0]

    of_masks, of_noise = 2 * D * ROWS if mode == MODES[0] else 0, 200
    assert per_layer(dropout=0.1) - per_layer() == pytest.approx(of_masks, abs=of_noise)
    assert per_layer(stochastic_depth=0.1) - per_layer() == pytest.approx(0, abs=of_noise)


def test_a_compiled_block_keeps_its_input_and_what_the_partitioner_says():
    inside = 3 * D * ROWS

    def deep(n_layers):
        return played(trace(replace(traced(mode=MODES[1], n_layers=n_layers), kept_inside=inside)).events)[2]

    assert deep(4) - deep(3) == 2 * D * ROWS + inside


def test_a_cpu_saves_more_of_a_norm_which_it_has_no_kernel_for():
    # Each of two norms keeps x and x / rms(x) in fp32 in the place of x in bf16.
    assert stored_per_layer(gpu=False) - stored_per_layer() == 2 * (4 + 4 - 2) * D * ROWS


def test_the_loss_holds_the_logits_in_fp32():
    small, large = (played(trace(traced(n_layers=1, vocab_size=v)).events)[0].peak("backward") for v in (32000, 64000))
    assert large.nbytes - small.nbytes == 12 * 32000 * ROWS  # log-probabilities, their gradient and the logits'


def test_a_loss_in_chunks_holds_the_logits_of_one():
    def peak(vocab_size, chunk):
        of = traced(Checkpointing(loss_chunk=chunk), n_layers=1, vocab_size=vocab_size)
        return played(trace(of).events)[0].peak("backward").breakdown["logits and loss"]

    for chunk in (256, 512):  # besides, the weight's gradient so far
        assert peak(64000, chunk) - peak(32000, chunk) == (12 * chunk + 2 * D) * 32000


def test_a_head_on_tokens_holds_the_logits_of_all_offsets_or_of_a_chunk():
    def peak(vocab_size, ahead, chunk=None):
        of = traced(Checkpointing(loss_chunk=chunk), heads=("multi_token",), task="multi_token", vocab_size=vocab_size)
        of = replace(of, shape=replace(of.shape, n_layers=1), options=VerseTasksConfig(tokens_ahead=ahead))
        return played(trace(of).events)[0].peak("backward")

    more = peak(64000, 4).nbytes - peak(32000, 4).nbytes
    assert more == 3 * 12 * 32000 * ROWS, "as the loss of language modelling, three times"
    in_chunks = (peak(vocab_size, 4, 256).breakdown["logits and loss"] for vocab_size in (32000, 64000))
    assert -next(in_chunks) + next(in_chunks) == (12 * 256 + 2 * D) * 32000


def test_the_workspace_of_flash_attention_is_counted():
    events = trace(traced(n_layers=1, seq_len=1000)).events
    sizes = {event.nbytes for event in events if isinstance(event, Alloc) and event.cause == "attention workspace"}
    assert sizes == {4 * B * 1024 * D, 4 * B * 1024 * H}  # fp32, with T rounded up to 128


@pytest.mark.parametrize(("mode", "peak"), [(MODES[1], "saved block inputs"), (MODES[3], "activations")])
def test_causes_tell_what_is_saved_from_what_is_made_on_the_way(mode, peak):
    gpu, _, _ = played(trace(traced(mode)).events)
    assert max(gpu.peak("forward").breakdown, key=gpu.peak("forward").breakdown.__getitem__) == peak
    assert set(gpu.peak("backward").breakdown) <= {
        "activations", "saved block inputs", "backward workspace", "logits and loss", "attention workspace",
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    ("norm", "task"), [("deepnorm", LM), ("rmsnorm", LM), ("deepnorm", "coherence"), ("deepnorm", "multi_token")]
)
def test_a_repeated_middle_is_the_whole_model(mode, norm, task):
    heads = () if task == LM else (task,)
    of = traced(mode, norm=norm, heads=heads, task=task, n_layers=traced_depth(99, mode.every) + 2 * mode.every + 1)
    repeated, whole = curve(_micro_step(of).events), curve(trace(of).events)
    assert repeated == whole


def curve(events):
    """Return what happens, with sizes in the place of keys."""
    sizes = {event.key: event for event in events if isinstance(event, Alloc)}
    return [
        ("freed", sizes[event.key].nbytes) if isinstance(event, Free)
        else (event.cause, event.nbytes, event.device) if isinstance(event, Alloc)
        else event
        for event in events
    ]  # fmt: skip


def test_blocks_that_differ_are_not_repeated():
    events = list(trace(traced(n_layers=4)).events)
    inside = events.index(Enter("base.layers.1"))
    events[inside + 1 : inside + 1] = [Alloc("more", "activations", 512), Free("more")]
    with pytest.raises(NotPeriodicError):
        repeat(events, period=1, more=3)


def test_the_peak_is_affine_in_depth_to_a_thousand_layers():
    shape = {"dim": 64, "n_heads": 2, "intermediate_size": 96, "size": 1, "seq_len": 64}
    first, second, deep = (
        played(_micro_step(traced(n_layers=n, **shape)).events)[0].peak().nbytes for n in (10, 20, 1000)
    )
    assert deep == first + 99 * (second - first)


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
        "size": st.integers(1, 4),
        "seq_len": st.integers(1, 300),
        "dtype": st.sampled_from([torch.bfloat16, torch.float32]),
        "mode": st.sampled_from(MODES),
        "gpu": st.booleans(),
    }
)
WORK = st.sampled_from([((), LM), (HEADS, LM), (HEADS, HEADS[0]), (HEADS[1:], HEADS[2])])


@settings(max_examples=15, deadline=None)
@given(SHAPES, WORK)
def test_all_is_freed_and_every_gradient_is_ready_once(options, work):
    of = traced(heads=work[0], task=work[1], n_documents=3 if work[1] != LM else 0, **options)
    entered, ready, events = [], [], _micro_step(of).events
    played(events)
    for event in events:
        if isinstance(event, Enter):
            assert not entered
            entered.append(event.module)
        elif isinstance(event, Leave):
            assert entered.pop() == event.module
        elif isinstance(event, Ready):
            ready.append(event.parameter)
    assert not entered
    assert sorted(ready) == sorted(weight.name for weight in of.parameters())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_peak_grows_with_layers_batch_and_sequence(mode):
    of = {"n_layers": 5, "dim": 64, "n_heads": 4, "intermediate_size": 192, "size": 2, "seq_len": 256}
    smaller = [memory.peak().nbytes for memory in played(_micro_step(traced(mode, **of)).events)[:2]]
    for change in ({"n_layers": 8}, {"size": 3}, {"seq_len": 300}):
        larger = [memory.peak().nbytes for memory in played(_micro_step(traced(mode, **(of | change))).events)[:2]]
        assert larger[0] >= smaller[0]
        assert larger[1] >= smaller[1]
        assert sum(larger) > sum(smaller)


@pytest.mark.parametrize("task", HEADS)
def test_gradients_are_ready_in_one_order_whatever_the_task(task):
    def order(task):
        of = traced(heads=HEADS, task=task, n_layers=2)
        return [event.parameter for event in trace(of).events if isinstance(event, Ready)]

    assert order(task) == order(LM)


def test_what_the_model_keeps_are_the_rope_tables():
    assert _micro_step(traced(n_layers=6)).kept_bytes == 4 * 4096 * D // H


def test_every_kind_of_tokenizer_has_a_verse_of_its_length():
    kinds = get_args(Kind)
    assert set(TOKENS_PER_VERSE) == set(kinds) == set(get_args(get_type_hints(TokenizerConfig)["kind"]))
