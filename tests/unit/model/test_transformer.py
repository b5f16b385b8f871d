import pytest
import torch

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import cross_entropy

TINY = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 64, "vocab_size": 50, "max_seq_len": 64}
VARIANTS = [{}, {"norm": "rmsnorm"}, {"n_kv_heads": 2}, {"tie_embeddings": True}]


def tokens(batch=2, time=24):
    return torch.randint(0, 50, (batch, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_computed_parameter_count_is_the_models(variant):
    config = ModelShape(**TINY | variant)
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.n_parameters


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_later_token_changes_no_earlier_logit(variant):
    model = Transformer(ModelShape(**TINY | variant))
    first, second = tokens(), tokens()
    second[:, 12:] = (second[:, 12:] + 1) % 50
    difference = (model(first) - model(second)).abs().amax(dim=(0, 2))
    assert difference[:12].max() == 0
    assert difference[12:].min() > 0


def test_grouped_query_attention_equals_full_attention_with_repeated_heads():
    grouped = Transformer(ModelShape(**TINY | {"n_kv_heads": 2}))
    full = Transformer(ModelShape(**TINY))
    weights = grouped.state_dict()
    for name in (n for n in weights if n.endswith(("wk.weight", "wv.weight"))):
        weights[name] = weights[name].unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    torch.testing.assert_close(full(tokens()), grouped(tokens()))


@pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])
@pytest.mark.parametrize(
    "checkpointing",
    [
        {"mode": "swiglu"},
        {"mode": "elementwise"},
        {"mode": "mlp"},
        {"mode": "block"},
        {"mode": "block", "every": 2},
        {"mode": "block", "offload": True},
    ],
    ids=str,
)
def test_activation_checkpointing_changes_no_loss_and_no_gradient_but_keeps_less(norm, checkpointing):
    def train(config):
        torch.manual_seed(0)
        model = Transformer(ModelShape(**TINY | {"norm": norm}), config)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = cross_entropy(model(tokens()), tokens())
        loss.backward()
        return loss, [p.grad for p in model.parameters()], sum(kept)

    loss, gradients, kept = train(None)
    other_loss, other_gradients, other_kept = train(ActivationCheckpointingConfig(**checkpointing))
    assert other_loss == loss
    torch.testing.assert_close(other_gradients, gradients, rtol=0, atol=0)
    assert other_kept < kept


def test_deepnorm_scales_the_branch_weights_by_beta_and_leaves_queries_keys_and_gate():
    torch.manual_seed(0)
    config = ModelShape(**TINY | {"dim": 256, "intermediate_size": 512})
    block = Transformer(config).layers[0]
    xavier = {"wq": 256, "wk": 256, "wv": 256, "wo": 256, "w1": 512, "w2": 512, "w3": 512}
    for name, other in xavier.items():
        module = getattr(block.attention if other == 256 else block.feed_forward, name)
        gain = float(module.weight.detach().std()) / (2 / (256 + other)) ** 0.5
        assert gain == pytest.approx(1 if name in ("wq", "wk", "w1") else config.init_beta, rel=0.02), name


def test_a_sequence_beyond_max_seq_len_is_refused():
    with pytest.raises(ValueError, match="65 tokens are more than max_seq_len 64"):
        Transformer(ModelShape(**TINY))(tokens(time=65))
