import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.flops import hardware_flops_per_token, model_flops_per_token
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import cross_entropy

SHAPE = {"n_layers": 4, "dim": 64, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 128, "vocab_size": 100}


@pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])
@pytest.mark.parametrize(
    "checkpointing",
    [{}, *({"mode": mode} for mode in ("swiglu", "elementwise", "mlp", "block")), {"mode": "block", "every": 3}],
    ids=lambda c: str(c or "none"),
)
def test_flops_of_the_weights_are_those_that_torch_counts(norm, checkpointing, monkeypatch):
    """With the attention product taken out, whose CPU kernel torch's counter does not know."""
    monkeypatch.setattr(
        "genesis_ds.model.attention.attend", lambda q, k, v, backend, documents: q + k.mean() + v.mean()
    )
    model, recomputed = ModelShape(**SHAPE, norm=norm), ActivationCheckpointingConfig(**checkpointing)
    tokens = torch.zeros(2, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        cross_entropy(Transformer(model, recomputed)(tokens), tokens).backward()
    assert counted.get_total_flops() == hardware_flops_per_token(model, 0, recomputed) * tokens.numel()


def test_attention_adds_six_times_layers_width_and_length_per_token():
    model = ModelShape(**SHAPE)
    assert model_flops_per_token(model, 512) - model_flops_per_token(model, 0) == 6 * 4 * 64 * 512
