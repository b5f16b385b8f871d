"""DeepSpeed's buffers, against the sums that its source gives. Measured with the engine: tests/bench/host_memory.py."""

from dataclasses import replace
from itertools import accumulate, product

import pytest
from helpers.built_in_heads import heads_of
from helpers.memory_walk import walk_states

from genesis_ds.config import ModelConfig
from genesis_ds.memory.deepspeed.buffers import by_group
from genesis_ds.memory.deepspeed.stages import BufferConfig, deepspeed_buffers
from genesis_ds.memory.deepspeed.timeline import Timeline
from genesis_ds.memory.deepspeed.zero3 import Zero3
from genesis_ds.memory.shapes import parameters
from genesis_ds.model import groups

MODEL = ModelConfig(n_layers=40, dim=512, n_heads=8, intermediate_size=1536, vocab_size=256)
HEADS = ("coherence", "cross_reference", "paraphrase")
WEIGHTS = parameters(MODEL, heads_of(HEADS, MODEL.dim))
SHALLOW = parameters(replace(MODEL, n_layers=4), heads_of(HEADS, MODEL.dim))
P = sum(weight.numel for weight in WEIGHTS)
LARGEST = max(weight.numel for weight in WEIGHTS)
GROUPS = len({weight.group for weight in WEIGHTS})
BUCKET = 4_000_000
CPU = {"device": "cpu"}
NVME = {"device": "nvme", "nvme_path": "/nvme", "buffer_count": 5}


@pytest.fixture(autouse=True)
def _one_group_of_matrices(monkeypatch):
    """So that what a group takes is seen as what grows with the model."""
    monkeypatch.setattr(groups, "LARGEST", 2**40)


def config(stage, accumulation=1, bf16=(), dtype=None, precision="bf16", **zero):
    found = {
        "zero_optimization": {"stage": stage, "reduce_bucket_size": BUCKET, **zero},
        "bf16": {"enabled": precision == "bf16", **{f"bf16_{key}": True for key in bf16}},
        "gradient_accumulation_steps": accumulation,
    }
    return found | ({"data_types": {"grad_accum_dtype": dtype}} if dtype else {})


def replay(ds_config, world_size=1, steps=2, weights=WEIGHTS, **options):
    """gpu and host after some optimizer steps; phases init, backward N, step N, settled, save."""
    offloads = ds_config["zero_optimization"].get("offload_optimizer")
    options = {"exact_pinning": True, **options}
    buffer_config = BufferConfig(ds_config, world_size, "cpu_adam" if offloads else "torch", **options)
    gpu, host = Timeline(), Timeline()
    states = deepspeed_buffers(weights, buffer_config, gpu, host)

    def phase(name):
        gpu.start(name)
        host.start(name)

    states.init()
    for step in range(1, steps + 1):
        phase(f"backward {step}")
        walk_states(states)
        phase(f"step {step}")
        states.step()
        phase(f"settled {step}")
    phase("save")
    states.save()
    phase("end")
    return gpu, host


def per_parameter(timeline, phase):
    return timeline.peak(phase).nbytes / P


@pytest.mark.parametrize(
    ("ds_config", "expected"),
    [
        (config(2, offload_optimizer=CPU), 18),
        (config(2, 2, offload_optimizer=CPU), 20),
        (config(2, 2, dtype="fp32", offload_optimizer=CPU), 18),
        (config(2, 2, ["master_weights_and_grads"], offload_optimizer=CPU), 12),
        (config(2, 2, ["master_weights_and_grads", "optimizer_states"], offload_optimizer=CPU), 8),
        (config(1, 2, offload_optimizer=CPU), 18),
        (config(3, 2, offload_optimizer=CPU), 18),
        (config(3, 2, dtype="fp32", offload_optimizer=CPU), 16),
        (config(3, 2, offload_optimizer=CPU, offload_param=CPU), 20),
        (config(3, 2, ["master_weights_and_grads", "optimizer_states"], offload_optimizer=CPU, offload_param=CPU), 8),
        (config(3, 2, ["master_weights_and_grads", "optimizer_states"], offload_optimizer=CPU), 8),
        (config(2), 0),
    ],
)
def test_bytes_a_parameter_on_the_host(ds_config, expected):
    _, host = replay(ds_config)
    assert per_parameter(host, "settled 2") == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_compensation_takes_two_bytes_more_from_the_first_step_on(stage):
    bf16 = config(stage, 1, ["master_weights_and_grads", "optimizer_states"], offload_optimizer=CPU)
    (_, host), (_, compensated) = (replay(bf16, compensates=kept) for kept in (False, True))
    assert per_parameter(compensated, "settled 2") - per_parameter(host, "settled 2") == pytest.approx(2, abs=0.01)
    assert per_parameter(compensated, "backward 1") == per_parameter(host, "backward 1")


@pytest.mark.parametrize(
    ("ds_config", "passing"),
    [
        (config(2, offload_optimizer=CPU), 2),  # the flat weights of a group
        (config(2), 4),  # one of Adam's moments of a group
        (config(3, offload_optimizer=CPU, offload_param=CPU), 0),
        (config(3, offload_optimizer=CPU), 0),  # its weights are in the masters alone
    ],
)
def test_what_a_save_takes_on_the_host(ds_config, passing):
    _, host = replay(ds_config)
    matrices = sum(weight.numel for weight in by_group(WEIGHTS)["matrices"])
    assert host.peak("save").nbytes - host.peak("settled 2").nbytes == pytest.approx(passing * matrices, rel=1e-6)


@pytest.mark.parametrize(
    ("ds_config", "settled", "peaks"),
    [
        (config(0, precision="fp32"), 12, {"init": 4, "backward 2": 20, "step 2": 16}),
        (config(0), 14, {"init": 6, "backward 2": 18, "step 2": 20}),
        (config(1), 14, {"init": 10, "backward 2": 18, "step 2": 22}),
        (config(1, dtype="fp32"), 18, {"init": 10, "backward 2": 26, "step 2": 20}),
        (config(2), 14, {"init": 10, "backward 2": 16, "step 2": 22}),
        (config(2, 2), 14, {"init": 10, "backward 2": 18, "step 2": 22}),
        (config(2, 2, dtype="fp32"), 14, {"init": 10, "backward 2": 18, "step 2": 18}),
        (config(2, 2, ["master_weights_and_grads", "optimizer_states"]), 8, {"backward 2": 12, "step 2": 12}),
        (config(2, offload_optimizer=CPU), 2, {"init": 4, "backward 2": 2, "step 2": 2}),
        (config(2, 2, dtype="fp32", offload_optimizer=CPU), 2, {"init": 4, "backward 2": 6, "step 2": 6}),
        (config(3), 16, {"init": 10, "backward 2": 16, "step 2": 22}),
        (config(3, precision="fp32"), 20, {"init": 12, "backward 2": 20, "step 2": 24}),
        (config(3, offload_optimizer=CPU), 2, {"init": 2, "backward 2": 2, "step 2": 2}),
    ],
)
def test_bytes_a_parameter_on_the_gpu(ds_config, settled, peaks):
    gpu, _ = replay(ds_config)
    assert per_parameter(gpu, "settled 2") == pytest.approx(settled, abs=0.15)
    # Buckets and copies of single gradients come on top; they do not grow with the model.
    passing = (2 * 4 * BUCKET + 20 * LARGEST) / P
    for phase, expected in peaks.items():
        assert expected - 0.1 < per_parameter(gpu, phase) < expected + passing, phase


@pytest.mark.parametrize(
    ("ds_config", "key", "nbytes"),
    [
        (config(2, 2), "partition gradients 0", 2 * P),
        (config(2, 2), "bucket 0", 2 * BUCKET),
        (config(2, 2, overlap_comm=True), "bucket 1", 2 * BUCKET),
        (config(3), "bucket", 2 * BUCKET),
        (config(2, 2, reduce_bucket_size=2 * P), "bucket 0", 2 * P),
    ],
)
def test_an_empty_buffer_takes_memory_on_a_cpu_as_gradients_are_written_to_it(ds_config, key, nbytes):
    cpu, _ = replay(ds_config, accelerator="cpu")
    changes = [n for _, name, n in cpu.log if name == key]
    assert max(changes) <= 2 * LARGEST
    assert nbytes - 2 * LARGEST < max(accumulate(changes)) <= nbytes
    gpu, _ = replay(ds_config)
    whole = 2 * ds_config["zero_optimization"]["reduce_bucket_size"] if "bucket" in key else 2 * P
    assert next(n for _, name, n in gpu.log if name == key) == whole


def test_adams_moments_appear_in_the_first_step():
    _, host = replay(config(2, offload_optimizer=CPU))
    assert per_parameter(host, "backward 1") == pytest.approx(10, abs=0.02)
    assert per_parameter(host, "step 1") == pytest.approx(18, abs=0.02)
    assert host.peak("step 1").breakdown["optimizer state"] == pytest.approx(8 * P, rel=1e-4)


@pytest.mark.parametrize(
    ("ds_config", "device", "more"),
    [
        (config(0, precision="fp32"), "gpu", 4),
        (config(0), "gpu", 4),
        (config(1, dtype="fp32"), "gpu", 4),
        (config(2), "gpu", 4),
        (config(2, offload_optimizer=CPU), "host", 4),
        (config(2, 2, ["master_weights_and_grads"], offload_optimizer=CPU), "host", 2),
        (config(3), "gpu", 4),
        (config(3, offload_optimizer=CPU, offload_param=CPU), "host", 4),
    ],
)
@pytest.mark.parametrize("average", ["grokfast", "weight_average"])
def test_an_average_is_one_more_copy_beside_adams_moments_from_the_first_step_on(average, ds_config, device, more):
    for phase, expected in (("backward 1", 0), ("settled 1", more), ("step 2", more), ("settled 2", more)):
        gpu, host = (
            per_parameter(filtered, phase) - per_parameter(plain, phase)
            for filtered, plain in zip(replay(ds_config, **{average: True}), replay(ds_config), strict=True)
        )
        assert {"gpu": gpu, "host": host} == pytest.approx({"gpu": 0, "host": 0} | {device: expected}, abs=1e-3), phase


@pytest.mark.parametrize(
    ("ds_config", "device", "turns"),
    [
        (config(0, precision="fp32"), "gpu", 1),
        (config(0), "gpu", 1),
        (config(2), "gpu", GROUPS),
        (config(2, offload_optimizer=CPU), "host", GROUPS),
        (config(3), "gpu", GROUPS),
    ],
)
def test_a_copy_that_measures_an_update_is_of_what_deepspeed_steps_at_a_time(ds_config, device, turns):
    gpu, host = replay(ds_config, copies_weights=True)
    log = {"gpu": gpu, "host": host}[device].log
    copies = [n for phase, key, n in log if phase == "step 2" and "weights before the update" in key and n > 0]
    assert len(copies) == turns
    assert sum(copies) == pytest.approx(4 * P, rel=1e-4)


@pytest.mark.parametrize("ds_config", [config(0), config(1, dtype="fp32"), config(2), config(3)])
def test_the_tensors_that_the_state_keeps_are_counted_one_by_one(ds_config):
    one, three = (replay(ds_config, n_state_tensors=n)[0] for n in (1, 3))
    assert per_parameter(three, "settled 2") - per_parameter(one, "settled 2") == pytest.approx(8, abs=1e-3)


ALL = [
    (stage, optimizer, param)
    for stage, optimizer, param in product(range(4), (None, CPU, NVME), (None, CPU, NVME))
    if (stage == 3 or not (param or optimizer == NVME)) and (stage or not optimizer)
]


@pytest.mark.parametrize(("stage", "optimizer", "param"), ALL)
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("pin", [True, False])
def test_nothing_leaks_and_the_second_step_stands_for_all(stage, optimizer, param, world_size, pin):
    zero = {"overlap_comm": pin, "stage3_param_persistence_threshold": 1000}
    if optimizer:
        zero["offload_optimizer"] = optimizer | {"pin_memory": pin}
    if param:
        zero["offload_param"] = param | {"pin_memory": pin}
    dtypes = (None, "fp32") if stage else (None,)
    for accumulation, dtype, exact in product((1, 2), dtypes, (True, False)):
        ds_config = config(stage, accumulation, dtype=dtype, **zero)
        for timeline in replay(ds_config, world_size, steps=3, weights=SHALLOW, exact_pinning=exact):
            for phase in ("backward", "step", "settled"):
                assert timeline.peak(f"{phase} 2") == timeline.peak(f"{phase} 3").__class__(
                    timeline.peak(f"{phase} 3").nbytes, f"{phase} 2", timeline.peak(f"{phase} 3").breakdown
                )
            assert timeline.peak("end").nbytes == timeline.peak("settled 3").nbytes


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_group_is_flat_and_padded_on_its_own(world_size):
    gpu, _ = replay(config(2), world_size)
    flat = {key.removeprefix("weights "): nbytes for _, key, nbytes in gpu.log if key.startswith("weights ")}
    groups = {name: sum(weight.numel for weight in found) for name, found in by_group(WEIGHTS).items()}
    assert list(flat) == ["matrices", "norms", "lm", *HEADS]
    assert flat == {name: 2 * -(-numel // (2 * world_size)) * 2 * world_size for name, numel in groups.items()}


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_sub_group_is_of_one_group(world_size):
    states = deepspeed_buffers(
        WEIGHTS, BufferConfig(config(3, sub_group_size=20_000_000), world_size, "torch"), Timeline(), Timeline()
    )
    assert isinstance(states, Zero3)
    found = [{weight.group for weight in group.parameters} for group in states.sub_groups]
    assert all(len(groups) == 1 for groups in found)
    assert list(dict.fromkeys(group for groups in found for group in groups)) == ["matrices", "norms", "lm", *HEADS]
    assert [weight.name for group in states.sub_groups for weight in group.parameters] == [
        weight.name for group in by_group(WEIGHTS).values() for weight in group
    ]


def test_smaller_groups_pass_through_the_gpu_and_the_host_one_at_a_time(monkeypatch):
    monkeypatch.setattr(groups, "LARGEST", 2**24)
    gpu, host = replay(config(2, offload_optimizer=CPU), exact_pinning=False)
    assert gpu.peak("init").nbytes == pytest.approx(2 * P + 2 * 2**24, rel=0.01), "a clone"
    assert host.peak("save").nbytes - host.peak("settled 2").nbytes == pytest.approx(2 * 2**24, rel=0.1), "a copy"
    assert host.peak().breakdown["pinned rounding"] < P, "10 bytes a parameter are pinned"
    gpu, _ = replay(config(2))
    assert gpu.peak("step 2").nbytes == pytest.approx(16 * P + (2 + 4) * 2**24, rel=0.05), "its fp32 gradient"


def test_pinned_buffers_take_powers_of_two():
    _, host = replay(config(2, 2, offload_optimizer=CPU), exact_pinning=False)
    taken = {key: nbytes for _, key, nbytes in host.log if nbytes > 0}
    pinned = [key for key in taken if f"{key}, rounding" in taken]
    groups = "matrices", "norms", "lm", *HEADS
    of_groups = {f"{kind} {group}" for kind in ("master weights", "staging", "master gradients") for group in groups}
    assert of_groups & {*taken} == of_groups
    assert {"master weights matrices", "staging matrices", "master gradients matrices"} <= {*pinned}
    assert len([key for key in pinned if key.startswith("accumulated gradient")]) > 40
    for key in pinned:
        total = taken[key] + taken[f"{key}, rounding"]
        assert total & (total - 1) == 0
        assert total < 2 * taken[key]
    breakdown = host.peak().breakdown
    assert breakdown["pinned rounding"] > P


def test_weights_offloaded_by_zero3_leave_their_first_pinned_shards_with_the_allocator():
    _, host = replay(config(3, offload_optimizer=CPU, offload_param=CPU), exact_pinning=False)
    assert host.peak("settled 2").breakdown["pinned cache"] >= 2 * (P - MODEL.dim * MODEL.n_layers * 10)
    _, exact = replay(config(3, offload_optimizer=CPU, offload_param=CPU))
    assert "pinned cache" not in exact.peak("settled 2").breakdown


def test_pageable_buffers_are_not_rounded():
    _, host = replay(config(2, 2, offload_optimizer=CPU | {"pin_memory": False}), exact_pinning=False)
    assert "pinned rounding" not in host.peak().breakdown


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [None, CPU])
def test_a_ranks_part_never_grows_with_the_ranks(stage, offload):
    ds_config = config(stage, **({"offload_optimizer": offload} if offload else {}))
    states = ["master weights", "optimizer state"] + (["weights", "gradients"] if stage == 3 else [])
    before = None
    for world_size in (1, 2, 3, 4, 7, 8, 64, 1000):
        held = {}
        for timeline in replay(ds_config, world_size):
            for cause, nbytes in timeline.peak("settled 2").breakdown.items():
                held[cause] = held.get(cause, 0) + nbytes
        total = sum(held[cause] for cause in states)
        assert before is None or total <= before, world_size
        before = total
    assert before < 0.1 * P


def test_weights_that_do_not_fit_twice_are_flattened_on_the_host():
    ds_config = config(2, offload_optimizer=CPU)
    for capacity, expected in ((5 * P, False), (3 * P, True), (None, False)):
        _, host = replay(ds_config, gpu_capacity=capacity)
        assert any(key == "flat weights on the host" for _, key, _ in host.log) is expected
        assert per_parameter(host, "init") == pytest.approx(14, abs=0.1)  # master gradients twice while they are pinned


def test_nvme_swap_buffers_are_of_the_largest_sub_group():
    ds_config = config(3, sub_group_size=10_000_000, offload_optimizer=NVME)
    _, host = replay(ds_config)
    largest = max(nbytes for _, key, nbytes in host.log if key == "optimizer swap buffers") / (5 * 4)
    assert 10_000_000 <= largest < 10_000_000 + LARGEST + 256
    assert "master weights" not in host.peak("settled 2").breakdown or (
        host.peak("settled 2").breakdown["master weights"] < 1 << 20
    )


def test_pipelined_nvme_keeps_the_first_steps_moments_until_the_second():
    piped = NVME | {"pipeline_read": True, "pipeline_write": True}
    _, host = replay(config(3, sub_group_size=10_000_000, offload_optimizer=piped))
    assert host.peak("settled 1").breakdown["optimizer state"] == pytest.approx(8 * P, rel=0.02)
    assert host.peak("settled 2").breakdown.get("optimizer state", 0) < 0.1 * P


def gathered(world_size=1, **zero):
    gpu, _ = replay(config(3, **zero), world_size)
    changes = [nbytes for _, key, nbytes in gpu.log if key.startswith(("gathered ", "flight "))]
    return max(accumulate(changes), default=0)


def test_zero3_gathers():
    frugal = {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0, "stage3_param_persistence_threshold": 0}
    block = sum(weight.numel for weight in WEIGHTS if weight.module == "base.layers.0")
    assert gathered() == 0, "one rank holds all weights already"
    # Over several ranks the two weights of a norm are gathered into a flat buffer and then copied out of it.
    assert gathered(world_size=2, **frugal) == 2 * block + 2 * 2 * MODEL.dim
    assert gathered(offload_param=CPU, **frugal) == 2 * block
    kept = {**frugal, "stage3_max_reuse_distance": 10 * P}
    assert gathered(offload_param=CPU, **kept) == 2 * P
    ahead = {**frugal, "stage3_prefetch_bucket_size": P, "stage3_max_live_parameters": 3 * block}
    assert 3 * 2 * block <= gathered(offload_param=CPU, **ahead) < 5 * 2 * block
