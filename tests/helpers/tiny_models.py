"""Shapes and tokens of the small models whose files tests write without training them."""

import torch

TINY = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50, "max_seq_len": 64}
LLAMA = {"norm": "rmsnorm", "n_kv_heads": 2, "rope_theta": 500.0}
TOKENS = torch.arange(80).view(2, 40) * 7 % 50
HEADS = ("coherence", "paraphrase")
