from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds import metrics
from genesis_ds.analysis.progress import fourier_norms, gini
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.progress import ProgressMeasures

P = 7
TABLE = arithmetic_table(P, "subtract", 0.4, seed=0)


@pytest.fixture(autouse=True)
def _one_rank(monkeypatch):
    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.add_over_ranks", lambda tensor: None)


def measured(embedding, step=100, rows=20):
    """Of a network that has the rule, with one frequency. rows: of a batch, which do not divide the pairs."""

    def rule(task, tokens):
        assert task == "lm"
        assert len(tokens) == rows
        assert (tokens[:, 2] == P).all()
        difference = (tokens[:, 0] - tokens[:, 1])[:, None] - torch.arange(P)
        return 5 * torch.cos(2 * np.pi * 3 * difference / P)

    hook = ProgressMeasures(
        calls=ModelCalls(rule, Ranks(0, 0, 1), torch.device("cpu")),
        evaluating=nullcontext,
        embedding=lambda: iter(embedding.items()),
        table=TABLE,
        every=100,
        rows=rows,
    )
    record = StepRecord(step, 10**6)
    hook.on_step(record)
    return record.metrics


def test_a_rule_of_one_frequency_is_found_in_the_logits_of_all_pairs():
    embedding = torch.arange(4.0 * (P + 1)).view(P + 1, 4).bfloat16()
    found = measured({"embedding": embedding})
    logits = 5 * np.cos(2 * np.pi * 3 * np.arange(P) / P)
    assert found[metrics.RESTRICTED_LOSS] == pytest.approx(np.log(np.exp(logits).sum()) - 5, rel=1e-5)
    assert found[metrics.EXCLUDED_LOSS] == pytest.approx(np.log(P), rel=1e-5)
    assert found[metrics.KEY_FREQUENCIES] == 1
    of_residues = embedding[:P].float().numpy()
    assert found[metrics.EMBEDDING_GINI] == pytest.approx(gini(fourier_norms(of_residues)))


def test_a_model_without_the_decoders_embedding_has_no_gini():
    assert metrics.EMBEDDING_GINI not in measured({})


def test_it_measures_with_the_trajectory():
    assert [step for step in (1, 2, 99, 100, 200) if measured({}, step)] == [1, 100, 200]
