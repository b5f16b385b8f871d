"""An offloaded optimizer whose buffers are one where they would hold the same bits: less memory, the same training."""

import pytest
from test_zero_parity import ALL_PARTITIONED, GROKFAST, LATE, OFFLOAD, OFFLOAD_ALL, zero

from genesis_ds.engine.compiled_ops import compiler_missing

pytestmark = pytest.mark.skipif(compiler_missing() is not None, reason="DeepSpeedCPUAdam cannot be built")

BF16 = {
    "precision": "bf16",
    "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
}
SUB_GROUPS = {**ALL_PARTITIONED, "sub_group_size": 3000}
FP32_SUMS = {"data_types": {"grad_accum_dtype": "fp32"}}
LONG, SHORT = 60, 8
SKIPPED = {"pass": 5, "rank": 0, "of": "loss", "factor": "inf"}
COMMON = {"optimizer": {"gradient_clipping": 0.1}, "count_bytes": True, "fault": SKIPPED}
"""Clipping changes what the optimizer is given, in place."""
ALL_TASKS = {"tasks": LATE, "grokfast": GROKFAST, "steps": SHORT}
# Bytes a parameter that are saved, ds_config, precision, run. ZeRO-2 saves what goes to the GPU, ZeRO-3 its masters and
# what the optimizer is given.
CASES = {
    "zero2, 60 steps": (2, zero(2, **OFFLOAD), BF16, {"master_rounding": "stochastic", "steps": LONG}),
    "zero3, 60 steps": (4, zero(3, **OFFLOAD_ALL), BF16, {"master_rounding": "stochastic", "steps": LONG}),
    "zero2, nearest": (2, zero(2, **OFFLOAD), BF16, {"master_rounding": "nearest", **ALL_TASKS}),
    "zero3, kahan": (4, zero(3, **OFFLOAD_ALL, **SUB_GROUPS), BF16, {"master_rounding": "kahan", **ALL_TASKS}),
    "zero3, weights on the GPU": (2, zero(3, **OFFLOAD), BF16, {"master_rounding": "stochastic", **ALL_TASKS}),
    "zero3, fp32 masters": (0, zero(3, **OFFLOAD_ALL), {"precision": "bf16"}, ALL_TASKS),
    "zero3, fp32 sums": (4, {**zero(3, **OFFLOAD_ALL), **FP32_SUMS}, {"precision": "bf16"}, ALL_TASKS),
    "zero1, nothing offloaded": (0, zero(1), {}, ALL_TASKS),
    "zero2, fp32": (4, zero(2, **OFFLOAD), {}, {"implementation": "torch", **ALL_TASKS}),
    "zero3, fp32": (8, zero(3, **OFFLOAD_ALL, **SUB_GROUPS), {}, {"implementation": "cpu_adam", **ALL_TASKS}),
}


def case_of(name, separate):
    _, ds_config, precision, options = CASES[name]
    sections = {key: value for key, value in precision.items() if key == "bf16"}
    options = {"precision": precision.get("precision", "auto"), **COMMON, **options}
    name = f"{name}{', separate' if separate else ''}"
    return {"name": name, "ds_config": {**ds_config, **sections}, "separate": separate, **options}


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2])
def results(request, train_cases):
    cases = [case_of(name, separate) for name in CASES for separate in (False, True)]
    return request.param, train_cases(cases, request.param)


@pytest.mark.parametrize("name", CASES)
def test_training_is_the_same_bit_for_bit(results, name):
    """With accumulation, clipping and a step that is skipped; with heads that some steps do not use, and Grokfast."""
    _, found = results
    shared, separate = found[name], found[f"{name}, separate"]
    assert shared["skipped"] == separate["skipped"] == 1
    assert shared["losses"] == separate["losses"]


@pytest.mark.parametrize("name", CASES)
def test_a_rank_holds_fewer_bytes(results, name):
    ranks, found = results
    saved = found[f"{name}, separate"]["bytes"] - found[name]["bytes"]
    parameters = found[name]["parameters"] / ranks
    assert saved / parameters == pytest.approx(CASES[name][0], abs=0.05)
