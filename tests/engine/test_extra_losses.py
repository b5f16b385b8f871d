"""A loss on masked input and the tokens after the next one: as in plain PyTorch, and resumed bit for bit."""

import pytest
from test_own_optimizer import STAGES
from test_zero_parity import plain_pytorch

from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.tokenizer import load_tokenizer

MASKING = {"kind": "random", "share": 0.5, "share_of_each": "drawn", "loss_weight": 0.4, "start": 2}
STEPS = 8
CASE = {"tasks": {"lm": 2, "coherence": 1, "multi_token": 2}, "masking": MASKING, "steps": STEPS, "slot": 2}
"""A slot is one micro-batch, so that two ranks compute different tasks at the same time."""
IN_CHUNKS = {"checkpointing": {"mode": "block", "loss_chunk": 100}}


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (2, ("zero2, offload", "zero3, offload")),
        pytest.param(1, tuple(STAGES), marks=pytest.mark.slow),
        pytest.param(2, tuple(STAGES), marks=pytest.mark.slow),
    ],
)
def test_they_are_those_of_plain_pytorch_under_every_stage_and_are_resumed_bit_for_bit(
    train_cases, synthetic_token_set, ranks, stages
):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    expected = plain_pytorch(CASE, text)
    plain = [{"name": stage, "ds_config": STAGES[stage], **CASE} for stage in stages]
    tied = [case | {"name": f"{case['name']}, tied", "model": {"tie_embeddings": True}} for case in plain]
    resumed = [case | {"name": f"{case['name']}, resumed", "resume": True, **IN_CHUNKS} for case in plain]
    results = train_cases([*plain, *tied, *resumed], ranks)
    for case in plain:
        assert results[case["name"]]["losses"] == pytest.approx(expected, abs=1e-4), case["name"]
    of_tied = plain_pytorch(tied[0], text)
    for case in tied:
        assert results[case["name"]]["losses"] == pytest.approx(of_tied, abs=1e-4), case["name"]
    for case in resumed:
        found = results[case["name"]]
        assert found["losses"] == pytest.approx(expected[STEPS // 2 :], abs=1e-4), case["name"]
        assert found["resumed"] == found["losses"], case["name"]
    without = plain_pytorch(CASE | {"masking": {}}, text)
    assert without[:2] == expected[:2]
    assert without[4:] != pytest.approx(expected[4:], abs=1e-3)
