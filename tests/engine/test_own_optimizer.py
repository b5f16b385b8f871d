"""Another optimizer than AdamW, built in or a user's own, follows a plain PyTorch loop and is resumed bit for bit."""

import pytest
from test_zero_parity import (
    ALL_PARTITIONED,
    GROKFAST,
    LATE,
    OF_ALL_TASKS,
    OFFLOAD,
    OFFLOAD_ALL,
    assert_measured,
    plain_pytorch,
    zero,
)

from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.tokenizer import load_tokenizer

LION = {
    "optimizers": {"toy_lion": "tests.docs.examples.toy_optimizer:Lion"},
    "optimizer": {"name": "toy_lion", "lr": 2e-4, "betas": [0.9, 0.99]},
}
SGD = {"optimizer": {"name": "sgd", "lr": 0.1, "options": {"momentum": 0.9}}, "weight_decay": 1e-3}
STEPS = 16
STAGES = {
    "zero0": zero(0),
    "zero2": zero(2),
    "zero2, offload": zero(2, **OFFLOAD),
    "zero3": zero(3),
    "zero3, offload": zero(3, **OFFLOAD_ALL),
}
REFERENCES = {"lion": LION, "sgd": SGD, "lion, all tasks, grokfast": {**LION, **OF_ALL_TASKS, "grokfast": GROKFAST}}
RESUMED = {"lion": {**LION, "grokfast": GROKFAST}, "sgd": SGD}
BF16 = {2: {}, 3: ALL_PARTITIONED}


def cases(stages):
    """Of each stage: what the plain loop is compared with, and a run that is resumed before a head's first use."""
    found = [
        {"name": f"bf16, zero{stage}", "ds_config": zero(stage, **more), "precision": "bf16", "steps": 20, **LION}
        for stage, more in BF16.items()
    ]
    for stage in stages:
        common = {"ds_config": STAGES[stage], "steps": STEPS}
        found += [common | case | {"name": f"{kind}, {stage}", "measure": True} for kind, case in REFERENCES.items()]
        resumed = {"resume": True, "tasks": LATE, "steps": 8}
        found += [common | case | resumed | {"name": f"resumed {kind}, {stage}"} for kind, case in RESUMED.items()]
    return [*found, *moved(stages)]


def moved(stages):
    """A run saved under the first stage goes on under the last."""
    first, last = stages[0], stages[-1]
    common = {"steps": STEPS, **LION}
    return [
        common | {"name": "saved", "ds_config": STAGES[first], "save": True},
        common | {"name": "moved", "ds_config": STAGES[last], "restore": "saved"},
    ]


@pytest.fixture(scope="module")
def references(synthetic_token_set):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    return {kind: plain_pytorch({"steps": STEPS, **case}, text) for kind, case in REFERENCES.items()}


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (1, ("zero0", "zero2")),
        pytest.param(1, ("zero2, offload", "zero3", "zero3, offload"), marks=pytest.mark.slow),
        pytest.param(2, tuple(STAGES), marks=pytest.mark.slow),
    ],
)
def test_other_optimizers_follow_plain_pytorch_and_are_resumed_bit_for_bit(train_cases, references, ranks, stages):
    results = train_cases(cases(stages), ranks)
    assert all(references[kind][-1] < references[kind][0] - 0.2 for kind in ("lion", "sgd"))
    for kind, reference in references.items():
        for stage in stages:
            found = results[f"{kind}, {stage}"]
            assert found["losses"] == pytest.approx(reference, abs=2e-3), (kind, stage)
            assert_measured(found)
    for name, result in results.items():
        if name.startswith("resumed"):
            assert result["resumed"] == result["losses"], name
        if name.startswith("bf16"):
            assert result["losses"][-1] < result["losses"][0] - 0.1, name
    assert results["moved"]["losses"] == pytest.approx(references["lion"][STEPS // 2 :], abs=2e-3)
