import pytest
import torch
from torch.nn import functional as F

from genesis_ds.config import ModelShape
from genesis_ds.model.stablemax import stablemax_logits
from genesis_ds.model.transformer import Transformer

SHAPE = {"n_layers": 1, "dim": 16, "n_heads": 2, "intermediate_size": 32, "vocab_size": 11, "max_seq_len": 8}


def stablemax(x):
    """By the paper's definition."""
    s = torch.where(x >= 0, x + 1, 1 / (1 - x))
    return s / s.sum(-1, keepdim=True)


def test_the_softmax_of_its_logits_is_the_stablemax_of_those_given():
    x = torch.tensor([[0.0, 1.0, -1.0, 50.0, -50.0], [3.0, 3.0, 3.0, 3.0, 3.0]], dtype=torch.float64).float()
    torch.testing.assert_close(stablemax_logits(x).softmax(-1), stablemax(x))


def test_its_gradient_is_that_of_the_definition_also_at_0():
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    x[0, 0] = x[1, 3] = 0.0
    targets = torch.arange(6)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    F.cross_entropy(stablemax_logits(ours), targets).backward()
    (-stablemax(theirs).log()[torch.arange(6), targets].mean()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_loss_does_not_vanish_in_fp32_where_that_of_softmax_does():
    logits, target = torch.tensor([[100.0, 0.0]]), torch.tensor([0])
    assert F.cross_entropy(logits, target) == 0
    assert F.cross_entropy(stablemax_logits(logits), target).item() == pytest.approx(1 / 101, rel=0.01)


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_a_model_that_has_it_gives_these_logits_and_has_the_weights_of_one_that_has_not(tie_embeddings):
    models = []
    for probabilities in ("softmax", "stablemax"):
        torch.manual_seed(0)
        shape = ModelShape(**SHAPE, probabilities=probabilities, tie_embeddings=tie_embeddings)
        models.append(Transformer(shape))
    softmax, stable = models
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(stable(tokens), stablemax_logits(softmax(tokens)))
