"""Floating-point operations of a training step, computed from the model's shape (counting as in arXiv 2204.02311,
appendix B, with the causal half of the attention scores)."""

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape


def model_flops_per_token(model: ModelShape, seq_len: int) -> float:
    """Return the FLOPs per token of forward and backward without recomputation: 6 N + 6 L D T.

    N counts the weights of matrix products: all but the embedding lookup and the norms. The second term is the causal
    attention over T tokens at D = n_heads x head width in each of L layers.
    """
    return 6 * _matrix_weights(model) + 3 * _attention_forward(model, seq_len) * model.n_layers


def hardware_flops_per_token(model: ModelShape, seq_len: int, checkpointing: ActivationCheckpointingConfig) -> float:
    """Return the FLOPs per token that the device executes: the model's, and what checkpointing computes a second time.

    The logits are computed twice where the loss is in chunks. torch stops recomputing once it has what backward needs:
    the last product, w2, is left out unless DeepNorm's LayerNorm after it needs its result.
    """
    projection = 2 * model.dim * model.intermediate_size
    block = 2 * _attention_weights(model) + _attention_forward(model, seq_len) + 2 * projection
    if model.norm == "deepnorm":
        block += projection
    n_recomputed = -(-model.n_layers // checkpointing.every)
    again = {"mlp": 2 * projection * n_recomputed, "block": block * n_recomputed}.get(checkpointing.mode, 0)
    if checkpointing.loss_chunk:
        again += 2 * model.vocab_size * model.dim
    return model_flops_per_token(model, seq_len) + again


def _attention_weights(model: ModelShape) -> int:
    return 2 * model.dim * (model.n_heads + model.kv_heads) * model.head_dim


def _matrix_weights(model: ModelShape) -> int:
    block = _attention_weights(model) + 3 * model.dim * model.intermediate_size
    return model.n_layers * block + model.vocab_size * model.dim


def _attention_forward(model: ModelShape, seq_len: int) -> int:
    """Return the FLOPs of scores and weighted values per layer and token: 2 products x 2 FLOPs x D x T/2 positions."""
    return 2 * model.n_heads * model.head_dim * seq_len
