"""What a compiled block keeps, as torch's partitioner says, and what the plan makes of it."""

import torch

from genesis_ds.config import ModelShape, RegularisationConfig
from genesis_ds.memory.activations.compiled import kept_bytes

B, T, D, F, H, V = 2, 256, 128, 384, 4, 260
SHAPE = ModelShape(n_layers=4, dim=D, n_heads=H, intermediate_size=F, vocab_size=V, norm="rmsnorm")
EAGER = (12 * D + 4 * D + 8 * F + 4 * H + 8) * B * T
"""Bytes that an eager block keeps in bf16, its input among them (test_activations)."""


def kept(budget, packed=False, **regularisation):
    of = {"rows": B, "seq_len": T, "dtype": torch.bfloat16, "regularisation": RegularisationConfig(**regularisation)}
    return kept_bytes(SHAPE, **of, packed=packed, budget=budget)


def test_the_budget_is_a_dial_from_nothing_to_less_than_an_eager_block_keeps():
    whole, half, nothing = kept(1.0), kept(0.5), kept(0.0)
    assert nothing == 0 < half <= 0.5 * whole
    assert 0.5 * EAGER < whole < EAGER - 2 * D * B * T


def test_dropout_keeps_a_byte_for_each_element_of_both_branches():
    assert kept(1.0, dropout=0.1) == kept(1.0) + 2 * D * B * T
    assert kept(1.0, stochastic_depth=0.1) == kept(1.0)


def test_attention_over_packed_verses_keeps_its_tensors_whatever_the_budget():
    assert kept(0.0, packed=True) == 4 * 2 * D * B * T
