"""Compiled blocks give the trajectory of eager ones, on whole rows and on packed verses, by a few graphs for all."""

import pytest

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ZERO2 = {"zero_optimization": {"stage": 2, **OFFLOAD}}
ZERO3 = {"zero_optimization": {"stage": 3, **OFFLOAD, "offload_param": {"device": "cpu"}}}
ALWAYS = {"when": "always"}
STEPS = 8
TASKS = {"tasks": {"lm": 2, "coherence": 1, "paraphrase": 1}, "steps": STEPS, "slot": 2}
"""Language modelling has whole rows, the others packed verses."""
RECOMPUTED = {"checkpointing": {"mode": "block"}}
CASES = [
    {"name": "eager", "ds_config": ZERO2},
    {"name": "zero2, budget", "ds_config": ZERO2, "compile": ALWAYS | {"activation_memory_budget": 0.3}},
    {"name": "zero3, resumed", "ds_config": ZERO3, "compile": ALWAYS, "resume": True, **RECOMPUTED},
]
MORE = [
    {"name": "eager", "ds_config": ZERO2},
    {"name": "zero2", "ds_config": ZERO2, "compile": ALWAYS},
    *(
        {"name": f"zero2, {mode}", "ds_config": ZERO2, "compile": ALWAYS, "checkpointing": {"mode": mode}}
        for mode in ("swiglu", "elementwise", "mlp")
    ),
    {"name": "zero2, blocks on host", "ds_config": ZERO2, "compile": ALWAYS}
    | {"checkpointing": {"mode": "block", "offload": True}},
    {"name": "zero3", "ds_config": ZERO3, "compile": ALWAYS},
    {"name": "zero3, budget", "ds_config": ZERO3, "compile": ALWAYS | {"activation_memory_budget": 0.3}},
]


def alike(results):
    """Compare every case with the eager one."""
    eager = results["eager"]["losses"]
    for name, result in results.items():
        assert result["losses"] == pytest.approx(eager[-len(result["losses"]) :], rel=1e-5), name
        assert not result.get("breaks"), name


def test_compiled_blocks_train_as_eager_ones_and_resume_bit_for_bit(train_cases):
    results = train_cases([case | TASKS for case in CASES], ranks=1)
    alike(results)
    resumed = results["zero3, resumed"]
    assert resumed["resumed"] == resumed["losses"]
    assert resumed["graphs"] <= 5, "a block for whole rows, and around attention for packed verses"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_so_they_do_with_every_stage_and_checkpointing(train_cases, ranks):
    alike(train_cases([case | TASKS for case in MORE], ranks))
