"""A decoder as a model of Hugging Face's transformers: names, config.json and the rotary layout, there and back.

A pre-norm model with softmax is a LlamaForCausalLM. Any other is a GenesisForCausalLM, whose code, modeling_genesis.py,
goes with it. Their rotation takes elements i and i + K/2 of a head for a pair, ours 2i and 2i + 1: the rows of wq and
wk are put in their order, and the scores of attention stay the same.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_ds.checkpoint.models.stored_model import BASE, StoredModel, Tensors
from genesis_ds.config import ModelShape
from genesis_ds.model.norm import RMSNorm
from genesis_ds.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CODE = Path(__file__).with_name("modeling_genesis.py")
OUTER = {"model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight"}
OUTPUT = {"lm_head.weight": "output.weight"}
IN_LAYER = {
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
}
NORMS = {
    "rmsnorm": {
        "input_layernorm.weight": "attention_norm.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
    },
    "deepnorm": {
        "post_attention_layernorm.weight": "attention_norm.norm.weight",
        "post_attention_layernorm.bias": "attention_norm.norm.bias",
        "post_feedforward_layernorm.weight": "ffn_norm.norm.weight",
        "post_feedforward_layernorm.bias": "ffn_norm.norm.bias",
    },
}
ROTATED = ("q_proj.weight", "k_proj.weight")


def is_llama(shape: ModelShape) -> bool:
    """Return whether transformers has all that the model is made of."""
    return shape.norm == "rmsnorm" and shape.probabilities == "softmax"


def config(model: StoredModel, dtype: torch.dtype) -> dict[str, Any]:
    """Return the model's config.json. Raises UserError for a user's own model."""
    model.require_decoder()
    shape = model.config
    return {
        **(LLAMA if is_llama(shape) else _genesis(shape)),
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
        **special_ids(model),
    }


def special_ids(model: StoredModel) -> dict[str, int | None]:
    """Return the special ids under transformers' names; None each for a model of arithmetic, which has none."""
    of_text = "tokenizer" in model.about
    ids = {"pad_token_id": PAD_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    return {name: number if of_text else None for name, number in ids.items()}


def tensors(model: StoredModel) -> Tensors:
    """Return the decoder's weights under the names of transformers, and in its order."""
    shape = model.config
    renamed = model.tensors.renamed({theirs: BASE + ours for theirs, ours in _names(shape).items()})

    def read(name: str) -> Tensor:
        weight = renamed.read(name)
        return _halves(weight, shape.head_dim) if name.endswith(ROTATED) else weight

    return Tensors(renamed.where, renamed.shapes, read)


def own_tensors(theirs: Tensors, shape: ModelShape) -> Tensors:
    """Return the weights of such an export under MultiTaskModel's names; those of no such model keep theirs."""
    ours = {name: BASE + own for name, own in _names(shape).items()}

    def read(name: str) -> Tensor:
        weight = theirs.read(name)
        return _pairs(weight, shape.head_dim) if name.endswith(ROTATED) else weight

    as_ours = Tensors(theirs.where, theirs.shapes, read)
    return as_ours.renamed({ours.get(name, name): name for name in theirs.shapes})


def _genesis(shape: ModelShape) -> dict[str, Any]:
    module = CODE.stem
    return {
        "architectures": ["GenesisForCausalLM"],
        "model_type": "genesis_ds",
        "auto_map": {
            "AutoConfig": f"{module}.GenesisConfig",
            "AutoModelForCausalLM": f"{module}.GenesisForCausalLM",
        },
        "residual_alpha": shape.residual_alpha if shape.norm == "deepnorm" else None,
        "probabilities": shape.probabilities,
    }


def _names(shape: ModelShape) -> dict[str, str]:
    """Return transformers' name of each weight -> the decoder's."""
    outer = OUTER if shape.tie_embeddings else OUTER | OUTPUT
    in_layer = IN_LAYER | NORMS[shape.norm]
    inner = {
        f"model.layers.{n}.{theirs}": f"layers.{n}.{ours}"
        for n in range(shape.n_layers)
        for theirs, ours in in_layer.items()
    }
    return outer | inner


def _halves(weight: Tensor, head_dim: int) -> Tensor:
    """Return the rows of heads [H * K, D] with each head's even rows before its odd ones."""
    halves: Tensor = weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
    return halves


def _pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Return the rows of heads [H * K, D] as they were before `_halves`."""
    pairs: Tensor = weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)
    return pairs
