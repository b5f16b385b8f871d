"""The residual stream in bf16 and in fp32."""

import pytest
import torch
from helpers.built_in_heads import heads_of

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.model.documents import Documents
from genesis_ds.model.multitask import STATES, build_model, keep_idle
from genesis_ds.model.norm import DeepNorm
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import cross_entropy

TINY = {"n_layers": 3, "dim": 32, "n_heads": 2, "intermediate_size": 64, "vocab_size": 50, "max_seq_len": 64}
DEEP = TINY | {"n_layers": 144}
TOKENS = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(1))
NORMS = pytest.mark.parametrize("norm", ["deepnorm", "rmsnorm"])


def loss_and_gradient(dtype, checkpointing=None, autocast=False, **shape):
    """Of weights rounded to bf16."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**shape), checkpointing).bfloat16().to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = cross_entropy(model(TOKENS), TOKENS.roll(-1, 1))
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def gradient_error(**shape):
    exact = loss_and_gradient(torch.float32, **shape)[1]
    return float((loss_and_gradient(torch.bfloat16, **shape)[1] - exact).norm() / exact.norm())


def test_at_144_layers_bf16_keeps_what_small_branches_add(monkeypatch):
    error, with_fp32_stream = gradient_error(**DEEP), gradient_error(**DEEP, fp32_residual=True)
    assert error < 0.035
    assert with_fp32_stream < 0.005
    monkeypatch.setattr(DeepNorm, "forward", lambda self, x, branch: self.norm(self.alpha * x + branch))
    assert gradient_error(**DEEP) > 0.05


@NORMS
@pytest.mark.parametrize("autocast", [False, True])
def test_where_the_stream_is_in_fp32_anyway_the_option_changes_nothing(norm, autocast):
    runs = [
        loss_and_gradient(torch.float32, autocast=autocast, **TINY, norm=norm, fp32_residual=on) for on in (True, False)
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@NORMS
@pytest.mark.parametrize("mode", ["block", "mlp"])
def test_activation_checkpointing_changes_no_gradient_of_an_fp32_stream(norm, mode):
    shape = TINY | {"norm": norm, "fp32_residual": True}
    runs = [loss_and_gradient(torch.bfloat16, ActivationCheckpointingConfig(m), **shape) for m in ("none", mode)]
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@NORMS
def test_an_fp32_stream_ends_at_the_final_norm(norm):
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(**TINY, norm=norm, fp32_residual=True),
        ActivationCheckpointingConfig(),
        lambda: heads_of(("coherence",), TINY["dim"]),
    ).bfloat16()
    seen = []
    hidden = model.base.hidden(TOKENS, observe=lambda depth, states: seen.append(states.dtype))
    assert seen == [torch.float32] * 3
    assert hidden.dtype == model("lm", TOKENS).output.dtype == torch.bfloat16
    documents, pair = Documents.of(torch.arange(4).repeat_interleave(12).view(2, 24)), torch.tensor([[0, 3]])
    outputs = model("coherence", TOKENS, documents=documents, examples=pair)
    keep_idle(outputs.output.sum(), outputs.idle).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        states = model.eval()(STATES, TOKENS, documents=documents, examples=pair, depths=(1, 3)).output
    assert states.shape == (1, 2, 2, 32)
    assert states.dtype == torch.float32
