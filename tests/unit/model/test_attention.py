import math

import pytest
import torch

from genesis_ds.config import ModelConfig
from genesis_ds.errors import UserError
from genesis_ds.model.attention import attend, resolve_backend
from genesis_ds.model.attention_proof import prove_attention
from genesis_ds.model.rope import apply_rope, rope_table

MODEL = ModelConfig(dim=64, n_heads=4, n_kv_heads=2, vocab_size=260)
CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["sdpa", "sdpa_flash"])
def test_attention_is_causal_softmax_attention(backend):
    q, k, v = (torch.randn(2, 10, heads, 16) for heads in (4, 2, 2))
    k_full, v_full = (x.repeat_interleave(2, dim=2) for x in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, k_full) / 4
    scores = scores.masked_fill(torch.ones(10, 10).triu(1).bool(), -torch.inf)
    expected = torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v_full)
    torch.testing.assert_close(attend(q, k, v, backend), expected)


def test_the_proof_names_the_kernel_that_ran():
    proof = prove_attention(MODEL, CPU, torch.float32, 32)
    assert proof.kernel == "flash for CPU (torch SDPA)"
    assert proof.max_error < 1e-5
    packed = prove_attention(MODEL, CPU, torch.float32, 32, packed=True)
    assert packed.kernel == "flash for CPU (torch SDPA)"
    assert packed.max_error < 1e-5


def test_the_proof_sees_a_kernel_that_is_not_fused(monkeypatch):
    def math(q, k, v, backend, documents):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return attend(q, k, v, "sdpa")

    monkeypatch.setattr("genesis_ds.model.attention.attend", math)
    assert prove_attention(MODEL, CPU, torch.float32, 32).kernel.startswith("math")


def test_a_forced_backend_that_is_missing_is_an_error_with_the_way_out():
    assert resolve_backend("auto", "cpu", torch.float32) == "sdpa"
    with pytest.raises(UserError, match=r"model\.attention: 'flash_attn': .*; use 'auto', or install it: "):
        resolve_backend("flash_attn", "cpu", torch.bfloat16)


def test_rope_depends_on_relative_positions_only_and_rotates_interleaved_pairs():
    table = rope_table(32, 8, 10000.0, CPU)
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 32, 1, 8)
    scores = torch.einsum("bthk,bshk->bts", apply_rope(q, table), apply_rope(k, table))[0]
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(29), rtol=1e-4, atol=1e-5)
    one = torch.zeros(1, 2, 1, 8)
    one[..., 0] = 1
    turned = apply_rope(one, rope_table(2, 8, 10000.0, CPU))[0, 1, 0]
    torch.testing.assert_close(turned[:2], torch.tensor([math.cos(1), math.sin(1)]))
    assert turned[2:].abs().max() == 0
