"""The predicted seconds of a step, and what the plan proposes for speed."""

import dataclasses

import pytest
from helpers.jobs import ROOT

from genesis_ds.config.parse import parse_arguments
from genesis_ds.memory.answers.advice import advise
from genesis_ds.memory.answers.command import _scenario, flags
from genesis_ds.memory.answers.step_time import step_time
from genesis_ds.memory.machine.hardware import NAMED

H200 = dataclasses.replace(NAMED["h100"], memory_bandwidth=4800e9)
EAGER = ["--compile.when", "never"]
TWO_OF_TWO = ["--batch.micro_batch_size", "2", "--batch.global_batch_size", "4"]


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


def test_fp32_gradients_cross_pcie_once_a_step():
    of = scenario("frontier_1b", "zero2_offload")
    kept = of.with_section("data_types", grad_accum_dtype="fp32")
    before, after = (step_time(each.sized(), of.hardware) for each in (of, kept))
    assert after.pcie < before.pcie / 5
    assert after.compute == before.compute


def test_a_machine_of_unknown_speed_has_no_prediction():
    assert step_time(scenario("quickstart", "zero2", hardware="cpu").sized(), NAMED["cpu"]) is None


def test_the_plan_proposes_what_crosses_pcie_less_where_it_fits():
    words = ["--model.n_layers", "4", "--model.dim", "128", "--model.n_heads", "2", "--batch.seq_len", "64"]
    of = scenario("frontier_1b", "zero2_offload", *words, "--model.intermediate_size", "256")
    advice = " ".join(advise(of, of.plan()))
    assert "grad_accum_dtype fp32" in advice
    assert "overlap_comm true" in advice


def test_a_budget_is_proposed_where_it_makes_a_run_fit():
    words = ["--model.n_layers", "8", "--activation_checkpointing.mode", "none", "--batch.micro_batch_size", "32"]
    of = scenario("rtx4070_optimal", "zero2", *words)
    plan = of.plan()
    assert not plan.fits
    assert any("compile.activation_memory_budget" in line for line in advise(of, plan))
