"""Properties of whole plans."""

import dataclasses

import pytest

from genesis_ds.config import (
    ActivationCheckpointingConfig,
    BatchConfig,
    CheckpointConfig,
    MaskingConfig,
    ModelShape,
    RunConfig,
)
from genesis_ds.config.model import LIMITS
from genesis_ds.memory import planner
from genesis_ds.memory.activations.micro_step import micro_step
from genesis_ds.memory.answers import search
from genesis_ds.memory.machine.hardware import NAMED, find_hardware
from genesis_ds.memory.planner import gpu_at_least, states_at_least
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tasks import registry

H100 = find_hardware("h100")
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
DS_CONFIGS = {
    "zero0": {"zero_optimization": {"stage": 0}},
    "zero1": {"zero_optimization": {"stage": 1, "reduce_bucket_size": 10**6}},
    "zero2": {"zero_optimization": {"stage": 2, "reduce_bucket_size": 10**6}},
    "zero2_offload": {"zero_optimization": {"stage": 2, "reduce_bucket_size": 10**6, **OFFLOAD}},
    "zero3": {"zero_optimization": {"stage": 3, "reduce_bucket_size": 10**6}},
    "zero3_offload": {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 10**6, **OFFLOAD, "offload_param": {"device": "cpu"}}
    },
}


def scenario(name, micro_batch_size=2, seq_len=256, n_layers=6, mode="none", gpus=1):
    model = ModelShape(vocab_size=260, n_layers=n_layers, dim=128, n_heads=2, intermediate_size=256)
    batch = BatchConfig(
        seq_len=seq_len, micro_batch_size=micro_batch_size, global_batch_size=micro_batch_size * gpus * 2
    )
    run = RunConfig(model=model, batch=batch, activation_checkpointing=ActivationCheckpointingConfig(mode=mode))
    hardware = dataclasses.replace(H100, gpus_per_node=gpus)
    return Scenario(run, "run", {"bf16": {"enabled": True}} | DS_CONFIGS[name], name, hardware)


@pytest.mark.parametrize("name", DS_CONFIGS)
@pytest.mark.parametrize("mode", ["none", "block", "mlp"])
def test_more_layers_batch_or_length_never_take_less_and_nothing_is_negative(name, mode):
    smaller = scenario(name, mode=mode).plan()
    for change in ({"n_layers": 9}, {"micro_batch_size": 3}, {"seq_len": 384}):
        larger = scenario(name, mode=mode, **change).plan()
        assert larger.gpu.allocated_peak_bytes >= smaller.gpu.allocated_peak_bytes
        assert larger.host.allocated_peak_bytes >= smaller.host.allocated_peak_bytes
    for device in (smaller.gpu, smaller.host):
        assert min(device.breakdown.values()) >= 0
        assert min(held for _, held in device.curve) >= 0


@pytest.mark.parametrize("name", DS_CONFIGS)
def test_the_partitioned_states_of_a_rank_never_grow_with_the_ranks(name):
    def states(gpus):
        plan = scenario(name, gpus=gpus).plan()
        causes = ("master weights", "optimizer state")
        return sum(device.breakdown.get(cause, 0) for device in (plan.gpu, plan.host) for cause in causes)

    sizes = [states(gpus) for gpus in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", DS_CONFIGS)
@pytest.mark.parametrize("mode", ["none", "block", "mlp"])
def test_the_quick_lower_bound_is_one(name, mode):
    of = scenario(name, mode=mode)
    assert gpu_at_least(of.sized(), of.hardware) <= of.plan().gpu.allocated_peak_bytes


@pytest.mark.parametrize("name", DS_CONFIGS)
def test_the_states_alone_are_a_lower_bound_without_a_gpu(name):
    of = dataclasses.replace(scenario(name), hardware=NAMED["cpu"])
    assert 4 * of.plan().parameters <= states_at_least(of.sized(), of.hardware) <= of.plan().host.allocated_peak_bytes


@pytest.mark.parametrize("name", DS_CONFIGS)
@pytest.mark.parametrize(
    "order", [("lm", "coherence"), ("coherence", "lm"), ("paraphrase", "paraphrase"), ("lm", "multi_token")]
)
def test_the_plan_bounds_any_order_of_tasks(name, order):
    of = scenario(name, mode="block")
    of = dataclasses.replace(of, run=dataclasses.replace(of.run, tasks=dict.fromkeys(registry.TASKS, 1.0)))
    hardware, run = of.hardware, of.sized()
    memory = planner._Memory(hardware)
    states = planner._states(run, hardware, of.settings, memory, len(order))
    states.init()
    for _ in range(3):
        for index, task in enumerate(order):
            planner._play(micro_step(run, task, gpu=True).events, states, memory)
            states.end_backward(last_micro_step=index == 1)
        memory.start("step")
        states.step()
    plan = of.plan()
    assert memory.gpu.peak().nbytes <= 1.001 * plan.gpu.allocated_peak_bytes
    assert memory.total_host.peak().nbytes <= plan.host.allocated_peak_bytes


@pytest.mark.parametrize("name", DS_CONFIGS)
def test_heads_take_more_and_are_counted(name):
    with_heads = scenario(name)
    run = dataclasses.replace(with_heads.run, tasks={"lm": 1.0})
    without = dataclasses.replace(with_heads, run=run).plan()
    dim, projection_dim = with_heads.run.model.dim, with_heads.run.verse_tasks.projection_dim
    assert without.parameters == run.model.n_parameters
    more = with_heads.plan()
    assert more.parameters - without.parameters == 4 * dim**2 + dim + 2 * (dim**2 + projection_dim * dim)
    assert more.gpu.allocated_peak_bytes > without.gpu.allocated_peak_bytes
    assert more.host.allocated_peak_bytes >= without.host.allocated_peak_bytes


@pytest.mark.parametrize("name", ["zero2_offload", "zero3_offload"])
def test_a_loss_on_masked_input_takes_the_activations_of_twice_the_rows(name):
    def peak(micro_batch_size, **masking):
        of = scenario(name, micro_batch_size)
        run = dataclasses.replace(of.run, tasks={"lm": 1.0}, masking=MaskingConfig(**masking))
        return dataclasses.replace(of, run=run).plan().gpu.allocated_peak_bytes

    masked = {"kind": "random", "share": 0.5}
    assert peak(2, **masked, loss_weight=0.4) == peak(4) > peak(2, **masked) == peak(2)


@pytest.mark.parametrize("quantity", search.QUANTITIES)
def test_the_largest_that_fits_fits_and_one_step_more_does_not(quantity):
    small_card = dataclasses.replace(H100, gpu_bytes=3 * 2**30, host_bytes=2 * 2**30)
    of = dataclasses.replace(scenario("zero2_offload"), hardware=small_card)
    found = search.largest(of, quantity)
    assert found.scenario.plan().fits
    assert not found.limit
    assert not search.at(of, quantity, found.n + 1).plan().fits


def test_what_else_than_memory_limits_a_search_is_said(monkeypatch):
    of = scenario("zero2")
    monkeypatch.setitem(LIMITS, "n_layers", 11)
    by_config = search.largest(of, "layers")
    assert by_config.n == 11
    assert by_config.limit.startswith("model.n_layers: 12")
    monkeypatch.setattr(search, "LIMIT", 4)
    by_search = search.largest(of, "seq_len")
    assert (by_search.n, by_search.limit) == (4, "nothing larger was tried")


def test_a_found_size_is_said_by_the_keys_that_a_run_needs():
    of = scenario("zero2").with_model(max_seq_len=256)
    assert search.describe(search.at(of, "seq_len", 3), "seq_len").startswith(
        "batch.seq_len 384 with model.max_seq_len 384, "
    )
    assert search.describe(search.at(of, "micro_batch", 3), "micro_batch").startswith(
        "batch.micro_batch_size 3 with batch.global_batch_size 6, "
    )


@pytest.mark.parametrize(
    ("kv_heads", "sizes"),
    [(None, [(1, 1), (2, 2)]), (8, [(1, 1), (2, 2)]), (2, [(4, 1), (8, 2)]), (1, [(1, 1), (2, 1)])],
)
@pytest.mark.parametrize("quantity", ["width", "model"])
def test_a_wider_model_shares_its_keys_and_values_among_as_many_heads(quantity, kv_heads, sizes):
    of = scenario("zero2").with_model(n_heads=8, n_kv_heads=kv_heads)
    found = [search.at(of, quantity, n) for n in (1, 2)]
    models = [each.run.model for each in found]
    assert [(model.n_heads, model.kv_heads) for model in models] == sizes
    assert {model.head_dim for model in models} == {of.run.model.head_dim}
    assert f"{models[1].n_heads} heads, {models[1].kv_heads} of keys and values" in search.describe(found[1], quantity)


def test_a_background_save_holds_a_copy_of_what_is_saved():
    at_once = scenario("zero2_offload")
    beside = dataclasses.replace(
        at_once, run=dataclasses.replace(at_once.run, checkpoint=CheckpointConfig(background=True))
    )
    plan, with_copy = at_once.plan(), beside.plan()
    assert with_copy.host.phases["save"] - plan.host.phases["save"] == 14 * plan.parameters
