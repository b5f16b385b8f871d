"""The predicted seconds of a step, and what the plan proposes for speed."""

import dataclasses

import pytest
from helpers.jobs import ROOT

from genesis_ds.config.parse import parse_arguments
from genesis_ds.memory.answers.advice import advise
from genesis_ds.memory.answers.command import _scenario, flags
from genesis_ds.memory.answers.speed import fastest_shipped, scaling, sent_bytes
from genesis_ds.memory.answers.step_time import step_time, update_bytes
from genesis_ds.memory.machine.hardware import GIB, NAMED
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.tuning.candidates import dimensions

H200 = dataclasses.replace(NAMED["h100"], memory_bandwidth=4800e9)
EAGER = ["--compile.when", "never"]
TWO_OF_TWO = ["--batch.micro_batch_size", "2", "--batch.global_batch_size", "4"]
SMALL = ["--model.n_layers", "4", "--model.dim", "128", "--model.n_heads", "2", "--batch.seq_len", "64"]
SMALL += ["--model.intermediate_size", "256"]
MPT_1B = {"preset": "null", "n_layers": 24, "dim": 2048, "n_heads": 16, "intermediate_size": 5461, "vocab_size": 50368}


def scenario(run, ds_config, *words, hardware="rtx4070"):
    files = ["--config", f"{ROOT}/launch/runs/{run}.yaml", "--ds_config", f"{ROOT}/ds_configs/{ds_config}.json"]
    return _scenario(parse_arguments([*files, *words, "--hardware", hardware], flags(), "test", ""))


@pytest.mark.parametrize(
    ("run", "ds_config", "words", "measured"),
    [
        ("frontier_1b", "zero2_offload", [*TWO_OF_TWO, *EAGER], 4 * 2048 / 4674),
        ("frontier_2b", "zero2_offload", [*TWO_OF_TWO, *EAGER], 4 * 2048 / 2646),
        ("rtx4070_optimal", "zero2", ["--batch.global_batch_size", "8"], 0.415),
        ("rtx4070_optimal", "zero3_offload", ["--batch.global_batch_size", "8", *EAGER], 8 * 2048 / 9017),
    ],
)
def test_the_steps_of_the_one_card_measured_are_predicted_to_a_quarter(run, ds_config, words, measured):
    found = step_time(scenario(run, ds_config, *words).sized(), H200)
    assert found.seconds == pytest.approx(measured, rel=1 / 4)
    assert "not measured" in str(found)


def test_windows_that_are_read_masked_as_well_take_twice_the_computing_and_count_once():
    masked = ["--masking.kind", "random", "--masking.loss_weight", "0.4"]
    scenarios = (scenario("frontier_1b", "zero2_offload", *words) for words in ((), masked))
    once, twice = (step_time(of.sized(), of.hardware) for of in scenarios)
    assert once.compute > once.launches
    assert twice.compute == 2 * once.compute
    assert twice.n_tokens == once.n_tokens


def test_fp32_gradients_cross_pcie_once_a_step():
    of = scenario("frontier_1b", "zero2_offload")
    kept = of.with_section("data_types", grad_accum_dtype="fp32")
    before, after = (step_time(each.sized(), of.hardware) for each in (of, kept))
    assert after.pcie < before.pcie / 5
    assert after.compute == before.compute


BF16 = {"bf16": {"enabled": True}}
ZERO2 = {"stage": 2, "reduce_bucket_size": 10**6}
CPU = {"device": "cpu"}
NONE = {"device": "none"}
ON_HOST = BF16 | {"zero_optimization": ZERO2 | {"offload_optimizer": CPU}}


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (BF16 | {"zero_optimization": {"stage": 0}}, BF16),
        (BF16 | {"zero_optimization": ZERO2 | {"offload_optimizer": NONE}}, BF16 | {"zero_optimization": ZERO2}),
        (
            ON_HOST | {"data_types": {"grad_accum_dtype": "torch.float32"}},
            ON_HOST | {"data_types": {"grad_accum_dtype": "fp32"}},
        ),
    ],
)
def test_two_ways_to_write_a_ds_config_get_one_prediction_and_one_advice(long, short):
    of = scenario("frontier_1b", "zero2", *SMALL)
    one, other = (dataclasses.replace(of, ds_config=each) for each in (long, short))
    assert step_time(one.sized(), one.hardware) == step_time(other.sized(), other.hardware)
    assert advise(one, one.plan()) == advise(other, other.plan())
    assert len(dimensions(one)["ds_config"]) == len(dimensions(other)["ds_config"])


def test_the_optimizer_and_the_weights_of_zero3_are_told_to_go_to_the_host_where_neither_is_there():
    of = scenario("frontier_1b", "zero3", *SMALL, "--model.dim", "1024").with_hardware(gpu_bytes=3 * GIB)
    none = of.with_zero(offload_param=NONE, offload_optimizer=NONE)
    for each in (of, none):
        assert any("zero3_offload.json" in line for line in advise(each, each.plan()))


@pytest.mark.parametrize(
    ("ds_config", "words", "nbytes"),
    [
        ("zero2_offload", [], 30),
        ("zero2_offload", ["--optimizer.weight_average.kind", "ema"], 38),
        ("zero2_offload_bf16", [], 14),
        ("zero2_offload_bf16", ["--optimizer.master_rounding", "kahan"], 18),
    ],
)
def test_an_update_moves_the_bytes_of_its_states(ds_config, words, nbytes):
    run = scenario("frontier_1b", ds_config, *words).sized()
    assert update_bytes(run, world_size=1) == nbytes * sum(weight.numel for weight in run_parameters(run))


def test_a_machine_of_unknown_speed_has_no_prediction():
    assert step_time(scenario("quickstart", "zero2", hardware="cpu").sized(), NAMED["cpu"]) is None


def test_the_plan_proposes_what_crosses_pcie_less_where_it_fits():
    of = scenario("frontier_1b", "zero2_offload", *SMALL)
    advice = " ".join(advise(of, of.plan()))
    assert "grad_accum_dtype fp32" in advice
    assert "overlap_comm true" in advice


def test_a_budget_is_proposed_where_it_makes_a_run_fit():
    words = ["--model.n_layers", "8", "--activation_checkpointing.mode", "none", "--batch.micro_batch_size", "32"]
    of = scenario("rtx4070_optimal", "zero2", *words)
    plan = of.plan()
    assert not plan.fits
    assert any("compile.activation_memory_budget" in line for line in advise(of, plan))


@pytest.mark.parametrize(
    ("nodes", "micro_batch", "micro_steps", "published"),
    [(1, 8, 8, 19271), (2, 8, 1, 19085), (8, 10, 1, 19001), (16, 10, 1, 18647)],
)
def test_published_tokens_a_second_and_card_of_a_sharded_model_are_predicted_to_a_tenth(
    nodes, micro_batch, micro_steps, published
):
    n_ranks = 8 * nodes
    batch = ["--batch.micro_batch_size", micro_batch, "--batch.global_batch_size", micro_batch * micro_steps * n_ranks]
    model = [str(word) for key, value in MPT_1B.items() for word in (f"--model.{key}", value)]
    more = ["--model.tie_embeddings", "true", "--activation_checkpointing.mode", "none", "--nodes", str(nodes)]
    of = scenario("frontier_1b", "zero3", *model, *map(str, batch), *more, "--gpus", "8", hardware="a100-40g")
    found = step_time(of.sized(), of.hardware)
    assert found.tokens_per_second / n_ranks == pytest.approx(published, rel=0.1)


def sent(ds_config, *words):
    hosts = ["--gpus", "8", "--nodes", "4", "--batch.global_batch_size", "128"]
    of = scenario("frontier_1b", ds_config, *hosts, *words, hardware="a100-80g")
    return sent_bytes(of), 2 * sum(weight.numel for weight in run_parameters(of.sized())) * 31 / 32


def test_zero3_sends_three_times_the_weights_in_a_micro_step_and_zero2_an_all_reduce_and_one_gather():
    found, weights = sent("zero3")
    assert found["reduce-scatter"] == pytest.approx(2 * weights)  # two micro-steps
    assert found["all-gather"] == pytest.approx(2 * 2 * weights, rel=0.15)  # some are kept from forward to backward
    found, weights = sent("zero2")
    assert found == pytest.approx({"all-reduce": 2 * 2 * weights, "all-gather": weights})


def test_a_slower_network_makes_the_step_longer_and_a_rank_alone_sends_nothing():
    of = scenario("frontier_1b", "zero2", "--nodes", "4", "--gpus", "4", hardware="a100-80g")
    slow = of.with_hardware(network_bandwidth=1e9)
    fast, slow = (step_time(each.sized(), each.hardware) for each in (of, slow))
    assert slow.network > 10 * fast.network
    assert slow.compute == fast.compute
    alone = scenario("frontier_1b", "zero2", hardware="a100-80g")
    assert sent_bytes(alone) == {}
    assert step_time(alone.sized(), alone.hardware).network == 0


def test_the_fastest_shipped_ds_config_is_one_that_fits():
    assert fastest_shipped(scenario("frontier_1b", "zero3", hardware="a100-80g")) == "zero2"
    assert fastest_shipped(scenario("frontier_1b", "zero3")).startswith("zero2_offload")
    too_large = ["--batch.micro_batch_size", "32", "--activation_checkpointing.mode", "none"]
    assert fastest_shipped(scenario("frontier_1b", "zero3", *too_large)) == ""


def test_scaling_keeps_the_global_batch_as_long_as_every_rank_has_some_of_it():
    of = scenario("frontier_1b", "zero2", "--gpus", "8", "--batch.global_batch_size", "64", hardware="a100-80g")
    rows = list(scaling(of))
    assert [row.scenario.hardware.world_size for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert {row.step.n_tokens for row in rows} == {64 * 2048}
    assert [row.scenario.run.batch.micro_batch_size for row in rows] == [2] * 6 + [1]
    assert rows[3].scenario.hardware.nodes == 1
    assert rows[-1].scenario.hardware.nodes == 8
