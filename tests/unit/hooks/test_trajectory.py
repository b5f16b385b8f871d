from math import nan

import numpy as np
import pytest
import torch

from genesis_ds import metrics
from genesis_ds.config import ModelConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.hooks.observe.trajectory import MAX_WINDOWS, Probe, RatioWatch
from genesis_ds.model.transformer import Transformer
from genesis_ds.tokenizer import load_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def token_set(tmp_path_factory):
    corpus = synthetic_corpus()
    root = tmp_path_factory.mktemp("token_sets")
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split_verses(corpus), root)


@pytest.fixture(scope="module")
def look():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layers=2, dim=16, n_heads=2, intermediate_size=32, vocab_size=260)).eval()

    @torch.no_grad()
    def look(tokens):
        states = model.hidden(tokens)
        return model.logits(states), states

    return look


def test_text_is_measured_on_windows_of_every_language_without_padding(token_set, look):
    probe = Probe.of_text(token_set, seq_len=128)
    assert len(probe.tokens) <= MAX_WINDOWS
    measured = probe.measure(look, 5, CPU)
    logits, states = (output[probe.seen].double().numpy() for output in look(probe.tokens))
    chosen = states[np.linspace(0, len(states) - 1, min(len(states), 1024)).round().astype(int)]
    singular = np.linalg.svd(chosen, compute_uv=False)
    shares = singular / singular.sum()
    assert measured[metrics.LOGIT_RMS] == pytest.approx(np.sqrt((logits**2).mean()), rel=1e-5)
    assert measured[metrics.EFFECTIVE_RANK] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_padding_does_not_count(token_set, look):
    probe = Probe.of_text(token_set, seq_len=100_000)
    assert not probe.seen.all()
    short = Probe(probe.tokens[:, :500], probe.seen[:, :500])
    assert short.seen.any()
    other = Probe(torch.where(short.seen, short.tokens, 7), short.seen)
    assert other.measure(look, 2, CPU) == pytest.approx(short.measure(look, 2, CPU))


def test_arithmetic_is_measured_at_the_answer(look):
    table = arithmetic_table(7, "add", 0.5, seed=0)
    probe = Probe.of_arithmetic(table.validation)
    assert probe.seen.sum(dim=1).tolist() == [1] * len(table.validation)
    assert (probe.tokens[probe.seen] == 7).all()
    assert 1 < probe.measure(look, 16, CPU)[metrics.EFFECTIVE_RANK] < 16


def test_a_gradient_ratio_that_leaves_its_range_is_said_once_and_so_is_its_return():
    watch = RatioWatch()
    said = [watch.watch(ratio) for ratio in (0.7, 3.0, 3.1, 40.0, nan, 0.1, 0.3, 1.0)]
    assert [text is not None for text in said] == [False, False, True, False, False, False, True, False]
    assert "3.1 times" in said[2]
    assert "again within 0.3 to 3" in said[6]
    assert RatioWatch(**vars(RatioWatch(outside=True))).watch(5.0) is None
