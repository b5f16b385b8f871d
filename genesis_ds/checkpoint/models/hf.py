"""A pre-norm model as a LlamaForCausalLM of Hugging Face's transformers: names, config.json and the rotary layout.

Their rotation takes elements i and i + K/2 of a head for a pair, ours 2i and 2i + 1: the rows of wq and wk are put in
their order, and the scores of attention stay the same.
"""

from typing import Any

import torch
from torch import Tensor

from genesis_ds.checkpoint.models.stored_model import BASE, StoredModel, Tensors
from genesis_ds.errors import UserError
from genesis_ds.model.norm import RMSNorm
from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID

OUTER = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def config(model: StoredModel, dtype: torch.dtype) -> dict[str, Any]:
    """Return the model's config.json. Raises UserError for a model with DeepNorm or StableMax, or a user's own."""
    model.require_decoder()
    shape = model.config
    if shape.norm != "rmsnorm":
        raise UserError(
            f"{model.tensors.where}: a Hugging Face Llama normalises before each branch, this model after it "
            f"(model.norm '{shape.norm}'); export it with --to safetensors"
        )
    if shape.probabilities != "softmax":
        raise UserError(
            f"{model.tensors.where}: a Hugging Face Llama has softmax, this model StableMax (model.probabilities); "
            "export it with --to safetensors"
        )
    of_text = "tokenizer" in model.about
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.dim,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": RMSNorm(shape.dim).eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.max_seq_len,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "pad_token_id": PAD_ID if of_text else None,
        "bos_token_id": BOS_ID if of_text else None,
        "eos_token_id": EOS_ID if of_text else None,
    }


def tensors(model: StoredModel) -> Tensors:
    """Return the decoder's weights under the names of transformers, and in its order."""
    shape = model.config
    outer = {theirs: ours for theirs, ours in OUTER.items() if not (shape.tie_embeddings and ours == "output")}
    inner = {
        f"model.layers.{n}.{theirs}": f"layers.{n}.{ours}"
        for n in range(shape.n_layers)
        for theirs, ours in IN_LAYER.items()
    }
    renamed = model.tensors.renamed(
        {f"{theirs}.weight": f"{BASE}{ours}.weight" for theirs, ours in (outer | inner).items()}
    )

    def read(name: str) -> Tensor:
        weight = renamed.read(name)
        return _halves(weight, shape.head_dim) if name.endswith(("q_proj.weight", "k_proj.weight")) else weight

    return Tensors(renamed.where, renamed.shapes, read)


def _halves(weight: Tensor, head_dim: int) -> Tensor:
    """Return the rows of heads [H * K, D] with each head's even rows before its odd ones."""
    halves: Tensor = weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
    return halves
