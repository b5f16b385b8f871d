"""A fresh engine's optimizer has done nothing yet, under every stage and precision."""

import json

import pytest
from test_zero_parity import LATE, OFFLOAD, OFFLOAD_ALL, SHIPPED, zero

CONFIGS = {path.stem: json.loads(path.read_text()) for path in SHIPPED if path.stem != "zero3_nvme"} | {
    "zero0": zero(0),
    "zero1": zero(1),
    "zero1, fp32 gradients": {**zero(1), "data_types": {"grad_accum_dtype": "fp32"}},
    "zero2, torch's": zero(2, **OFFLOAD),
    "zero3, torch's": zero(3, **OFFLOAD_ALL),
}


def cases():
    for name, config in CONFIGS.items():
        for precision in ("auto",) if "bf16" in name else ("auto", "bf16"):
            case = {"name": f"{name}, {precision}", "ds_config": config, "precision": precision, "steps": 1}
            yield case | {"implementation": "torch" if "torch" in name else "auto", "fresh": True, "weight_decay": 1.0}


@pytest.fixture(scope="module")
def results(train_cases):
    resumed = {"ds_config": zero(0), "precision": "bf16", "tasks": LATE, "steps": 6, "resume": True}
    return train_cases([*cases(), {"name": "resumed", **resumed}], 1)


@pytest.mark.parametrize("name", [case["name"] for case in cases()])
def test_no_update_is_counted_and_the_masters_are_the_weights(results, name):
    assert results[name] == {"updates": [], "moved": []}


def test_zero0_in_bf16_is_resumed_bit_for_bit_before_the_first_use_of_a_head(results):
    assert results["resumed"]["resumed"] == results["resumed"]["losses"]
