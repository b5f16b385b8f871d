"""How NoiseSource draws noise, and what the decoder does with what it is handed."""

import pytest
import torch
from torch.nn import functional as F

from genesis_ds.config import (
    ActivationCheckpointingConfig,
    ExtensionsConfig,
    ModelConfig,
    ModelShape,
    RegularisationConfig,
    RunConfig,
)
from genesis_ds.errors import UserError
from genesis_ds.model.noise import drop
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import cross_entropy
from genesis_ds.tasks.noise import NoiseSource

TINY = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 64, "vocab_size": 50, "max_seq_len": 64}
BOTH = {"dropout": 0.3, "stochastic_depth": 0.6}
TOKENS = torch.randint(0, 50, (4, 24), generator=torch.Generator().manual_seed(1))


def noise_of(positions, task="lm", *, n_layers=3, seed=0, **regularisation):
    config = RegularisationConfig(**regularisation)
    return NoiseSource(RunConfig(seed=seed, model=ModelConfig(n_layers=n_layers), regularisation=config)).of(
        task, positions
    )


def decoder(norm="deepnorm", mode="none"):
    torch.manual_seed(0)
    return Transformer(ModelShape(**TINY | {"norm": norm}), ActivationCheckpointingConfig(mode))


def correlation(first, second):
    return torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs()


def test_the_noise_of_a_row_depends_on_seed_task_and_position_alone():
    together = noise_of(range(100, 108), **BOTH)
    for position in (100, 105):
        alone = noise_of(range(position, position + 1), **BOTH)
        assert torch.equal(alone.scales[:, 0], together.scales[:, position - 100])
        assert torch.equal(alone.keys[:, 0], together.keys[:, position - 100])
    assert len(together.keys.unique()) == together.keys.numel()
    for other in (noise_of(range(100, 108), seed=1, **BOTH), noise_of(range(100, 108), "coherence", **BOTH)):
        assert not torch.equal(other.scales, together.scales)
        assert (other.keys != together.keys).all()


def test_branches_are_dropped_more_often_the_deeper_they_are_and_scaled_up_for_it():
    scales = noise_of(range(4000), n_layers=4, stochastic_depth=0.8).scales
    assert (scales[0] == 1).all(), "every row has its embeddings"
    for layer in range(1, 5):
        survival = 1 - 0.8 * layer / 4
        for branch in (2 * layer - 1, 2 * layer):
            assert sorted(scales[branch].unique().tolist()) == pytest.approx([0, 1 / survival])
            assert (scales[branch] > 0).double().mean() == pytest.approx(survival, abs=0.03)
    assert torch.corrcoef(scales[1:]).fill_diagonal_(0).abs().max() < 0.06, "each branch is drawn on its own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_of_elements_and_the_mean_stays(dtype):
    noise = noise_of(range(6), dropout=0.3)
    ones = torch.ones(6, 128, 64, dtype=dtype)
    found = torch.stack([drop(ones, noise, place) for place in range(7)])
    assert found.dtype == dtype
    assert found.unique().tolist() == [0, torch.tensor(1 / 0.7).to(dtype)]
    kept = (found > 0).double()
    assert kept.mean() == pytest.approx(0.7, abs=0.003)
    assert kept.mean((0, 1, 2)).std() < 0.01, "of channels"
    assert kept.mean((0, 1, 3)).std() < 0.015, "of tokens"
    assert torch.corrcoef(kept.flatten(2).flatten(0, 1)).fill_diagonal_(0).abs().max() < 0.06, "of places and rows"
    assert correlation(kept[:, :, 1:], kept[:, :, :-1]) < 0.01
    assert correlation(kept[..., 1:], kept[..., :-1]) < 0.01


@pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])
def test_it_falls_on_the_embeddings_and_on_each_branch_before_it_is_added(norm):
    model, noise = decoder(norm), noise_of(range(4), **BOTH)
    found = model.hidden(TOKENS, noise=noise)
    whole = model.hidden(TOKENS)
    places = [model.tok_embeddings, *(part for block in model.layers for part in (block.attention, block.feed_forward))]
    for place, module in enumerate(places):
        masks = drop(torch.ones(4, 24, 32), noise, place)
        module.register_forward_hook(lambda module, inputs, output, masks=masks: output * masks)
    torch.testing.assert_close(found, model.hidden(TOKENS))
    assert not torch.allclose(found, whole, atol=0.1)


def test_a_dropped_block_is_the_norm_of_alpha_x_and_has_no_gradient():
    block, x = decoder().layers[1], torch.randn(4, 24, 32)
    noise = noise_of(range(4), dropout=0.3).of_block(1)
    dropped = noise._replace(scales=noise.scales * torch.tensor([0.0, 0.0, 1.0, 1.0]))
    rotation = decoder()._rotation(TOKENS, None, 0)
    out = block(x, rotation, noise=dropped)
    once = F.layer_norm(block.attention_norm.alpha * x[:2], (32,))
    torch.testing.assert_close(out[:2], F.layer_norm(block.ffn_norm.alpha * once, (32,)))
    assert torch.equal(out[2:], block(x, rotation, noise=noise)[2:])
    out[:2].sum().backward()
    assert block.feed_forward.w2.weight.grad.abs().max() == block.attention.wo.weight.grad.abs().max() == 0


@pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])
@pytest.mark.parametrize("mode", ["block", "mlp", "swiglu", "elementwise"])
def test_what_is_computed_again_drops_the_same(norm, mode):
    noise = noise_of(range(4), **BOTH)

    def train(mode):
        model = decoder(norm, mode)
        loss = cross_entropy(model.logits(model.hidden(TOKENS, noise=noise)), TOKENS)
        loss.backward()
        return loss, [parameter.grad for parameter in model.parameters()]

    torch.testing.assert_close(train(mode), train("none"), rtol=0, atol=0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
@pytest.mark.parametrize("key", ["dropout", "stochastic_depth"])
def test_a_share_that_leaves_nothing_is_refused(key, share):
    with pytest.raises(UserError, match=rf"^regularisation\.{key}: {share} is not allowed; give a share from 0 to "):
        RegularisationConfig(**{key: share})


def test_a_model_of_ones_own_is_refused():
    own = ExtensionsConfig(model="mine:Model")
    RunConfig(extensions=own)
    with pytest.raises(UserError, match=r"^regularisation: drops parts of the decoder, but the model is mine:Model; "):
        RunConfig(extensions=own, regularisation=RegularisationConfig(dropout=0.1))
