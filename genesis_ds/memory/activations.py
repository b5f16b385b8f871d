"""What one micro-step of the decoder allocates and frees, written line for line like genesis_ds/model.

B batch, T time, D width, H heads, K head width, V vocabulary, as in the model. Checked against a trace of the real
model (tests/unit/memory/test_activations.py). Left out: the rope tables (rope_table_bytes), cuBLAS' workspace and the
CUDA context, which are the machine's, and what memory/operators.py says it leaves out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.memory.operators import FP32, INT64, Operators
from genesis_ds.memory.shapes import parameters
from genesis_ds.memory.tape import Tape, Value
from genesis_ds.memory.timeline import Step


@dataclass(frozen=True)
class Kernels:
    """The kernels that run on a machine."""

    flash_attention: bool = True
    """FlashAttention-2 (flash-attn or torch SDPA), which keeps q, k, v, the output and H*T log-sums; else torch's math
    attention, which keeps fp32 copies and the H*T*T probabilities."""
    fused_rms_norm: bool = True
    """torch's kernel for CUDA (in 2.13, not in 2.6), which keeps the input and 1/rms; else the fp32 composite."""


def micro_step(
    model: ModelConfig,
    batch_size: int,
    seq_len: int,
    dtype_bytes: int,
    checkpointing: ActivationCheckpointingConfig,
    kernels: Kernels,
) -> list[Step | str]:
    """Every allocation and free of loss = model(tokens, targets); loss.backward(), in order.

    batch_size: B of one micro-batch. seq_len: T. dtype_bytes: of weights and activations, 2 (bf16) or 4 (fp32). The
    strings "forward" and "backward" stand where a phase begins. At the end everything is freed.

    Whose is what. Weights and .grad buffers are the engine's and are not here. The gradient that autograd makes of a
    weight is here, dtype_bytes per element under "backward workspace"; it is alive at the parameter's Ready and freed
    right after it. So an engine that copies it into a bucket does that at Ready. One that keeps it as .grad
    (AccumulateGrad steals it, without a copy) allocates its own right after that Free.
    A module's Enter and Leave come once in the forward and once in the backward, where they enclose the recomputation.
    With tied embeddings "output" is not entered: the projection belongs to tok_embeddings, which is entered twice.
    """
    tape = Tape()
    weights = {parameter.name: dtype_bytes * parameter.numel for parameter in parameters(model)}
    operators = Operators(tape, batch_size, seq_len, dtype_bytes, weights)
    tape.events.append("forward")
    tokens, targets = (tape.new(INT64 * batch_size * seq_len) for _ in range(2))
    loss = _Decoder(model, checkpointing, kernels, operators).forward()
    tape.events.append("backward")
    tape.backward(loss)
    del tokens, targets, loss
    return tape.events


def rope_table_bytes(model: ModelConfig) -> int:
    """Cosines and sines in fp32, made at the first forward pass and kept."""
    return FP32 * model.max_seq_len * model.head_dim


class _Decoder:
    """genesis_ds.model on sizes: each method is the forward of the module of that name."""

    def __init__(
        self,
        model: ModelConfig,
        checkpointing: ActivationCheckpointingConfig,
        kernels: Kernels,
        operators: Operators,
    ) -> None:
        self.model, self.checkpointing, self.kernels, self.on = model, checkpointing, kernels, operators
        self.tape = operators.tape

    def forward(self) -> Value:
        tape, c = self.tape, self.model
        with tape.module("tok_embeddings"):
            hidden = self.on.embedding("tok_embeddings.weight", c.dim, self.input_cause(0))
        for index in range(c.n_layers):
            with tape.module(f"layers.{index}"):
                layer = self.layer(index)
                again = self.recomputes(index)
                hidden = tape.checkpoint(layer, hidden, self.checkpointing.offload) if again else layer(hidden)
        with tape.module("norm"):
            hidden = self.rms_norm(hidden, "norm")
        tape.cause = "logits and loss"
        output = "tok_embeddings" if c.tie_embeddings else "output"
        with tape.module(output):
            logits = self.on.linear(hidden, f"{output}.weight", c.vocabulary)
        logits = self.on.to_fp32(logits)
        return self.on.cross_entropy(logits)

    def recomputes(self, index: int) -> bool:
        return self.checkpointing.mode == "block" and index % self.checkpointing.every == 0

    def input_cause(self, index: int) -> str:
        """What the input of block `index` is counted under; offloaded, its GPU copy is an ordinary activation."""
        kept = index < self.model.n_layers and self.recomputes(index) and not self.checkpointing.offload
        return "saved block inputs" if kept else "activations"

    def layer(self, index: int) -> Callable[[Value], Value]:
        return lambda x: self.block(x, f"layers.{index}", self.input_cause(index + 1))

    def block(self, x: Value, name: str, cause: str) -> Value:
        """cause: what its output is counted under."""
        mlp = self.checkpointing.mode == "mlp"
        middle = "saved block inputs" if mlp and not self.checkpointing.offload else "activations"
        if self.model.norm == "deepnorm":
            h = self.deep_norm(x, self.attention(x, name), f"{name}.attention_norm.norm", middle)
            return self.deep_norm(h, self.mlp(h, name), f"{name}.ffn_norm.norm", cause)
        h = self.on.add(x, self.attention(self.rms_norm(x, f"{name}.attention_norm"), name), middle)
        return self.on.add(h, self.mlp(h, name), cause)

    def mlp(self, h: Value, name: str) -> Value:
        def branch(h: Value) -> Value:
            post_norm = self.model.norm == "deepnorm"
            return self.feed_forward(h if post_norm else self.rms_norm(h, f"{name}.ffn_norm"), name)

        if self.checkpointing.mode == "mlp":
            return self.tape.checkpoint(branch, h, self.checkpointing.offload)
        return branch(h)

    def feed_forward(self, x: Value, name: str) -> Value:
        on, c, name = self.on, self.model, f"{name}.feed_forward"

        def up(weight: str) -> Value:
            return on.linear(x, f"{name}.{weight}.weight", c.intermediate_size)

        return on.linear(on.mul(on.silu(up("w1")), up("w3")), f"{name}.w2.weight", c.dim)

    def attention(self, x: Value, name: str) -> Value:
        c, name = self.model, f"{name}.attention"
        q = self.on.rope(self.on.linear(x, f"{name}.wq.weight", c.n_heads * c.head_dim))
        k = self.on.rope(self.on.linear(x, f"{name}.wk.weight", c.kv_heads * c.head_dim))
        v = self.on.linear(x, f"{name}.wv.weight", c.kv_heads * c.head_dim)
        attend = self.on.flash_attention if self.kernels.flash_attention else self.on.math_attention
        return self.on.linear(attend(q, k, v, c.n_heads, c.head_dim), f"{name}.wo.weight", c.dim)

    def deep_norm(self, x: Value, branch: Value, name: str, cause: str) -> Value:
        return self.on.layer_norm(self.on.add(self.on.scale(x), branch), name, cause)

    def rms_norm(self, x: Value, name: str) -> Value:
        norm = self.on.fused_rms_norm if self.kernels.fused_rms_norm else self.on.composite_rms_norm
        return norm(x, f"{name}.weight")
