"""The hidden states that alignment and clustering look at, out of the real engine."""

import numpy as np
import pytest
import torch

from genesis_ds.config import ActivationCheckpointingConfig
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.run_data import Text
from genesis_ds.model.multitask import build_model
from genesis_ds.tasks.load import make_heads
from genesis_ds.tokenizer import load_tokenizer

from test_zero_parity import OFFLOAD, OFFLOAD_ALL, TASKS, zero  # isort: skip
from worker import run_of, verses_of  # isort: skip

CASES = [
    {"name": f"{name}, {kind}", "ds_config": config, "tasks": TASKS, "steps": 3, **more}
    for name, config in {"zero0": zero(0), "zero2": zero(2, **OFFLOAD), "zero3": zero(3, **OFFLOAD_ALL)}.items()
    for kind, more in {"states": {"states": True}, "none": {}}.items()
]


def states_alone(text):
    """[depths, languages, verses, D] of a plain model on one verse at a time."""
    run, verses = run_of(CASES[0]), verses_of(text)
    torch.manual_seed(0)
    model = build_model(run.model, ActivationCheckpointingConfig(), lambda: make_heads(run, tuple(TASKS))).eval()

    @torch.no_grad()
    def of_verse(index):
        by_depth = {}
        tokens = torch.from_numpy(verses.table.tokens(index).astype(np.int64))[None]
        normed = model.base.hidden(tokens, observe=by_depth.__setitem__)
        return torch.stack([states.mean(1)[0] for states in (by_depth[1], by_depth[2], normed)]).numpy()

    states = np.array([[of_verse(index) for index in language] for language in verses.rows])
    return np.moveaxis(states, 2, 0)


@pytest.fixture(scope="module")
def reference(synthetic_token_set):
    return states_alone(Text(load_tokenizer("bytes"), synthetic_token_set, CrossReferences()))


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_they_are_those_of_a_plain_model_under_every_stage_and_training_goes_on_unchanged(
    train_cases, reference, ranks
):
    results = train_cases(CASES, ranks)
    for with_states, without in zip(CASES[::2], CASES[1::2], strict=True):
        result = results[with_states["name"]]
        assert result["same_on_all_ranks"]
        np.testing.assert_allclose(np.array(result["states"]), reference, rtol=1e-3, atol=1e-5)
        assert result["losses"] == results[without["name"]]["losses"]
