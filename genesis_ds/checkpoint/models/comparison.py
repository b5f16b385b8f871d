"""Whether an export gives the logits of the checkpoint that it was made of: both are run on one fixed text.

The checkpoint's side is a forward pass written out from the papers, on the tensors under the names of the file, and has
nothing in common with genesis_ds/model: a weight that was lost, swapped or tied wrongly on the way is seen.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.checkpoint.models.legacy import LM_HEAD, LegacyFile
from genesis_ds.checkpoint.models.stored_model import BASE
from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer

Weight = Callable[[str], Tensor]
"""Name inside the decoder -> the tensor of the file."""
TEXT = b"In the beginning God created the heaven and the earth. \xed\x83\x9c\xec\xb4\x88\xec\x97\x90"
"""What both are run on, byte b as id b + 4, modulo the vocabulary."""
EXPECTED = "expected.npz"
"""A file beside a checkpoint with tokens [B, T] and the logits [B, T, V] that another program has got for them."""
CLOSE = 1e-3
"""Logits that differ by no more have been rounded in another order; those of another model differ by 0.1 or more."""


def fixed_tokens(shape: ModelShape) -> Tensor:
    """Return the ids [1, T] of the fixed text, cut to the model's longest sequence."""
    return torch.tensor([[(byte + 4) % shape.vocab_size for byte in TEXT[: shape.max_seq_len]]])


def largest_difference(model: Transformer, tokens: Tensor, logits: Tensor) -> float:
    """Return the largest difference between logits [B, T, V] and those of the model on the same tokens [B, T]."""
    with torch.no_grad():
        return float((model(tokens) - logits).abs().max())


def expected_beside(path: Path) -> tuple[Tensor, Tensor] | None:
    """Return the tokens and logits that lie beside a checkpoint, or None. Raises UserError for a file without them."""
    file = (path if path.is_dir() else path.parent) / EXPECTED
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            return torch.from_numpy(stored["tokens"]).long(), torch.from_numpy(stored["logits"]).float()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: holds no tokens and logits ({error}); mend it or remove it") from None


@torch.no_grad()
def logits_of_file(file: LegacyFile, shape: ModelShape, tokens: Tensor) -> Tensor:
    """Return the logits [1, T, V] in fp32 that the tensors of a checkpoint give for tokens [1, T].

    shape: for the number of heads, the norm and the base of the rotary frequencies.
    """
    names = file.tensors.shapes
    prefix = BASE if any(name.startswith(BASE) for name in names) else ""

    def weight(name: str) -> Tensor:
        return file.tensors.read(prefix + name)

    x = weight("tok_embeddings.weight")[tokens[0]]
    for layer in range(shape.n_layers):
        of = f"layers.{layer}"
        if shape.norm == "deepnorm":
            alpha = (2 * shape.n_layers) ** 0.25
            for norm, branch in (("attention_norm.norm", _attention), ("ffn_norm.norm", _feed_forward)):
                scale, shift = weight(f"{of}.{norm}.weight"), weight(f"{of}.{norm}.bias")
                x = F.layer_norm(alpha * x + branch(x, of, weight, shape), x.shape[-1:], scale, shift, eps=1e-5)
        else:
            x = x + _attention(_rms_norm(x, weight(f"{of}.attention_norm.weight")), of, weight, shape)
            x = x + _feed_forward(_rms_norm(x, weight(f"{of}.ffn_norm.weight")), of, weight, shape)
    embedding = weight("tok_embeddings.weight")
    output = LM_HEAD if names.get(LM_HEAD) == embedding.shape else f"{prefix}output.weight"
    matrix = file.tensors.read(output) if output in names else embedding
    return (_rms_norm(x, weight("norm.weight")) @ matrix.T)[None]


def _attention(x: Tensor, of: str, weight: Weight, shape: ModelShape) -> Tensor:
    """Causal attention of x [T, D], pairs (2i, 2i + 1) of queries and keys turned by their position."""
    n_tokens, width = len(x), shape.head_dim
    queries, keys, values = (
        (x @ weight(f"{of}.attention.{name}.weight").T).view(n_tokens, -1, width).transpose(0, 1)
        for name in ("wq", "wk", "wv")
    )
    frequencies = shape.rope_theta ** (-torch.arange(0, width, 2) / width)
    turns = torch.polar(torch.ones(n_tokens, width // 2), torch.outer(torch.arange(n_tokens), frequencies))
    queries, keys = (
        torch.view_as_real(torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)
        for heads in (queries, keys)
    )
    shared_by = shape.n_heads // shape.kv_heads
    keys, values = keys.repeat_interleave(shared_by, 0), values.repeat_interleave(shared_by, 0)
    future = torch.ones(n_tokens, n_tokens).triu(1).bool()
    scores = (queries @ keys.transpose(1, 2) / width**0.5).masked_fill(future, -torch.inf)
    mixed = (scores.softmax(-1) @ values).transpose(0, 1).flatten(1)
    out: Tensor = mixed @ weight(f"{of}.attention.wo.weight").T
    return out


def _feed_forward(x: Tensor, of: str, weight: Weight, shape: ModelShape) -> Tensor:
    """SwiGLU of x [T, D]."""
    w1, w2, w3 = (weight(f"{of}.feed_forward.{name}.weight") for name in ("w1", "w2", "w3"))
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


def _rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale
