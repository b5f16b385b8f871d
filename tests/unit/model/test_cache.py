import itertools

import pytest
import torch

from genesis_ds.config import ModelShape
from genesis_ds.model.cache import KeyValueCache
from genesis_ds.model.transformer import Transformer

SHAPE = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50, "max_seq_len": 40}
VARIANTS = [
    {"norm": norm, "tie_embeddings": tied, **others}
    for norm, tied in itertools.product(["deepnorm", "rmsnorm"], [True, False])
    for others in ({}, {"n_kv_heads": 2}, {"probabilities": "stablemax"}, {"fp32_residual": True})
]
TOKENS = torch.arange(72).view(2, 36) * 7 % 50


def model_of(**given):
    torch.manual_seed(0)
    return Transformer(ModelShape(**SHAPE | given)).eval()


def cache_of(model, n_rows=2, n_tokens=36):
    return KeyValueCache(model.config, n_rows=n_rows, n_tokens=n_tokens, like=model.norm.weight)


@pytest.mark.parametrize("steps", [[1] * 36, [20] + [1] * 16, [9, 20, 7], [36]], ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.inference_mode()
def test_logits_with_a_cache_are_those_without(variant, steps):
    model = model_of(**variant)
    cache = cache_of(model)
    found = [model.logits(model.hidden(part, cache=cache)) for part in TOKENS.split(steps, dim=1)]
    assert cache.length == 36
    torch.testing.assert_close(torch.cat(found, dim=1), model(TOKENS), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_cleared_cache_is_as_a_new_one():
    model = model_of()
    cache = cache_of(model)
    model.hidden(TOKENS, cache=cache)
    cache.clear()
    torch.testing.assert_close(model.hidden(TOKENS[:, 5:20], cache=cache), model.hidden(TOKENS[:, 5:20]))


@pytest.mark.parametrize(("n_tokens", "most"), [(20, "the 20 that the cache holds"), (99, "max_seq_len 40")])
@torch.inference_mode()
def test_more_tokens_than_there_is_room_for_are_an_error(n_tokens, most):
    model = model_of()
    cache = cache_of(model, n_tokens=n_tokens)
    model.hidden(TOKENS[:, : min(n_tokens, 36)], cache=cache)
    with pytest.raises(ValueError, match=f"are more than {most}"):
        model.hidden(TOKENS[:, :5], cache=cache)


def test_a_model_that_has_been_used_can_be_trained_in_the_same_process():
    model = model_of(rope_theta=123.0)  # a table that no other test has made
    with torch.inference_mode():
        model(TOKENS)
    model(TOKENS).sum().backward()
