"""bf16 masters that are rounded stochastically, or compensated: the same bits whatever the ranks and the stage."""

import pytest
from test_zero_parity import ALL_PARTITIONED, GROKFAST, LATE, OFFLOAD, OFFLOAD_ALL, zero

from genesis_ds.engine.compiled_ops import compiler_missing

pytestmark = pytest.mark.skipif(compiler_missing() is not None, reason="DeepSpeedCPUAdam cannot be built")

ROUNDINGS = ("stochastic", "kahan")
STAGES = {
    "zero2": zero(2, **OFFLOAD),
    "zero3": zero(3, **OFFLOAD_ALL),
    "zero3, all partitioned": zero(3, **OFFLOAD_ALL, **ALL_PARTITIONED, sub_group_size=3000),
}


def bf16_masters(name, stage, **more):
    bf16 = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
    return {"name": name, "ds_config": {**STAGES[stage], "bf16": bf16}, "precision": "bf16", **more}


SAME = {"same_batches": True, "steps": 4, "optimizer": {"gradient_clipping": 0.0, "lr": 3e-4}}
SAME |= {"weight_decay": 1.0, "schedule": {"weight_decay_end_ratio": 20.0}}
"""A norm is added up in another order on other ranks."""


RESUME = [
    bf16_masters(
        f"resume {rounding}, {stage}",
        stage,
        master_rounding=rounding,
        resume=True,
        tasks=LATE,
        steps=5,
        grokfast=GROKFAST,
        perpendicular=perpendicular,
    )
    for rounding, stage, perpendicular in (("stochastic", "zero2", True), ("kahan", "zero3", False))
]
LAST = "base.output.weight"
"""Its gradient has the same bits under every stage; autograd adds up others in another order under ZeRO-3."""


@pytest.fixture(scope="module")
def results(train_cases):
    cases = [
        bf16_masters(f"{rounding}, {stage}", stage, master_rounding=rounding, **SAME)
        for rounding in ROUNDINGS
        for stage in STAGES
    ]
    cases += RESUME
    cases.append(bf16_masters("skipped", "zero2", master_rounding="stochastic", skip=2, **SAME))
    cases.append(
        {"name": "fp32", "ds_config": STAGES["zero2"], "precision": "bf16", "implementation": "cpu_adam", **SAME}
    )
    return {ranks: train_cases(cases, ranks) for ranks in (1, 2)}


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_an_update_has_the_same_bits_on_any_number_of_ranks_and_under_every_stage(results, rounding):
    found = [(stage, results[n][f"{rounding}, {stage}"]["bits"]) for n in results for stage in STAGES]
    for family in ("zero2", "zero3"):
        first, *others = (bits for stage, bits in found if stage.startswith(family))
        assert all(bits == first for bits in others), family
    assert len({bits[0][LAST] for _, bits in found}) == 1


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(results):
    """With a head that no step had used before the checkpoint, and with Grokfast's average in bf16."""
    for of_ranks in results.values():
        for case in RESUME:
            assert of_ranks[case["name"]]["resumed"] == of_ranks[case["name"]]["losses"], case["name"]


def test_a_step_that_is_skipped_leaves_no_trace(results):
    for n, of_ranks in results.items():
        plain, skipped = of_ranks["stochastic, zero2"]["bits"], of_ranks["skipped"]["bits"]
        assert skipped == [*plain[:2], plain[1], *plain[2:]], n


def test_the_meter_measures_the_update_before_it_is_rounded(results):
    for rounding in ROUNDINGS:
        measured = results[2][f"{rounding}, zero2"]["updates"]
        assert measured == pytest.approx(results[2]["fp32"]["updates"], rel=0.01)
