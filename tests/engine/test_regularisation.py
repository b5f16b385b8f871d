"""Dropout and stochastic depth are those of a plain PyTorch loop, whatever the ranks, the stage and the recomputing."""

import pytest
from test_own_optimizer import STAGES
from test_zero_parity import TASKS, plain_pytorch

from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.tokenizer import load_tokenizer

KINDS = {
    "dropout": {"dropout": 0.2},
    "depth": {"stochastic_depth": 0.5},
    "both": {"dropout": 0.2, "stochastic_depth": 0.5},
}
COMMON = {"tasks": TASKS, "steps": 8, "slot": 2}
"""A slot is one micro-batch, so that two ranks compute different tasks at the same time."""
RECOMPUTED = ("none", "block", "mlp", "swiglu", "elementwise")


@pytest.fixture(scope="module")
def references(synthetic_token_set):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    return {kind: plain_pytorch(COMMON | {"regularisation": given}, text) for kind, given in KINDS.items()}


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (2, ("zero2, offload", "zero3, offload")),
        pytest.param(1, tuple(STAGES), marks=pytest.mark.slow),
        pytest.param(2, tuple(STAGES), marks=pytest.mark.slow),
    ],
)
def test_they_are_those_of_plain_pytorch_and_are_resumed_bit_for_bit(train_cases, references, ranks, stages):
    cases = [
        {"name": f"{kind}, {stage}", "ds_config": STAGES[stage], "regularisation": KINDS[kind], "resume": True}
        | {"checkpointing": {"mode": RECOMPUTED[(row + column) % len(RECOMPUTED)]}}
        | COMMON
        for row, stage in enumerate(stages)
        for column, kind in enumerate(KINDS)
    ]
    results = train_cases(cases, ranks)
    for case in cases:
        found, expected = results[case["name"]], references[case["name"].split(",")[0]]
        assert found["losses"] == pytest.approx(expected[-len(found["losses"]) :], abs=1e-4), case["name"]
        assert found["resumed"] == found["losses"], case["name"]
    assert len({losses[-1] for losses in references.values()}) == len(KINDS)


@pytest.mark.parametrize(
    ("tasks", "modes"),
    [
        ({"lm": 1}, ("none",)),
        pytest.param({"lm": 1, "paraphrase": 1}, RECOMPUTED, marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_drop_the_same_by_as_few_graphs(train_cases, tasks, modes):
    common = {"ds_config": STAGES["zero2"], "regularisation": KINDS["both"], "tasks": tasks, "steps": 6}
    compiled = [
        common | {"name": mode, "compile": {"when": "always"}, "checkpointing": {"mode": mode}} for mode in modes
    ]
    results = train_cases([common | {"name": "eager"}, *compiled], ranks=1)
    for mode in modes:
        assert results[mode]["losses"] == pytest.approx(results["eager"]["losses"], rel=1e-5), mode
        assert not results[mode]["breaks"], mode
        assert results[mode]["graphs"] <= (1 if len(tasks) == 1 else 5), mode
