"""The decoder of genesis_ds for transformers: Llama's parts, and what Llama has not got.

DeepNorm (arXiv 2203.00555) in the place of the norm before each branch where `residual_alpha` is given, and StableMax
(arXiv 2501.04697) in the place of softmax where `probabilities` is "stablemax".
"""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


class GenesisConfig(LlamaConfig):
    """Llama's settings, and those of a genesis_ds model."""

    model_type = "genesis_ds"
    residual_alpha: float | None = None
    probabilities: str = "softmax"


class DeepNorm(nn.LayerNorm):
    """LayerNorm(alpha x + f(x)), in fp32 whatever the dtype of x."""

    def __init__(self, config: GenesisConfig) -> None:
        super().__init__(config.hidden_size, eps=1e-5)
        self.alpha = config.residual_alpha

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x and f(x) [B, T, D] -> [B, T, D] in x's dtype."""
        summed = torch.add(branch, x.float(), alpha=self.alpha)
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(summed, self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class GenesisDecoderLayer(LlamaDecoderLayer):
    """Llama's attention and feed-forward, each with DeepNorm after it."""

    def __init__(self, config: GenesisConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        del self.input_layernorm
        self.post_attention_layernorm = DeepNorm(config)
        self.post_feedforward_layernorm = DeepNorm(config)

    def forward(self, hidden_states: Tensor, **options) -> Tensor:
        """hidden_states [B, T, D] -> [B, T, D]; options are for the attention."""
        attended, _ = self.self_attn(hidden_states, **options)
        hidden = self.post_attention_layernorm(hidden_states, attended)
        return self.post_feedforward_layernorm(hidden, self.mlp(hidden))


class StableMaxHead(nn.Linear):
    """The output layer with sign(x) log(1 + |x|) of its logits, of which the softmax is their StableMax."""

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> logits [B, T, V], fp32."""
        logits = super().forward(hidden).float()
        return torch.copysign(logits.abs().log1p(), logits)


class GenesisForCausalLM(LlamaForCausalLM):
    """A language model that genesis_ds has trained."""

    config_class = GenesisConfig

    def __init__(self, config: GenesisConfig) -> None:
        super().__init__(config)
        if config.residual_alpha is not None:
            self.model.layers = nn.ModuleList(GenesisDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        if config.probabilities == "stablemax":
            self.lm_head = StableMaxHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
