"""What one micro-step of the model allocates and frees, written line for line like genesis_ds/model.

B batch, T time, D width, H heads, K head width, V vocabulary, as in the model; n documents. Checked against a trace of
the real model (tests/unit/memory/test_activations.py). Left out: the rope tables (rope_table_bytes), cuBLAS' workspace
and the CUDA context, which are the machine's, and what operators.py and heads.py say they leave out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape
from genesis_ds.memory.activations.heads import Heads
from genesis_ds.memory.activations.operators import FP32, INT32, INT64, HeadShape, Operators, padded_to_groups
from genesis_ds.memory.activations.tape import Buffer, Tape, Value
from genesis_ds.memory.deepspeed.timeline import Step
from genesis_ds.memory.shapes import Parameter, parameters
from genesis_ds.model.multitask import LM


@dataclass(frozen=True)
class Kernels:
    """The kernels that run on a machine."""

    flash_attention: bool = True
    """FlashAttention-2 (flash-attn or torch SDPA), which keeps q, k, v, the output and H*T log-sums; else torch's math
    attention, which keeps fp32 copies and the H*T*T probabilities."""
    fused_rms_norm: bool = True
    """torch's kernel for CUDA (in 2.13, not in 2.6), which keeps the input and 1/rms; else the fp32 composite."""
    varlen: bool = True
    """Packed documents by FlashAttention-2's kernel for them (torch's; flash-attn's takes less where there are fewer
    key/value heads); else, on a CPU or in fp32, by SDPA on documents gathered by length, padded to the longest of each
    group."""


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-step works on."""

    size: int
    """B."""
    seq_len: int
    """T."""
    task: str = LM
    n_documents: int = 0
    """Of a task with a head of its own, in all rows."""


def micro_step(
    model: ModelShape,
    heads: Mapping[str, nn.Module],
    batch: MicroBatch,
    dtype_bytes: int,
    checkpointing: ActivationCheckpointingConfig,
    kernels: Kernels,
    own: Sequence[Parameter] = (),
) -> list[Step | str]:
    """Every allocation and free of a forward pass, the loss and its backward pass, in order.

    heads: by task, of which types and shapes count. dtype_bytes: of weights and activations, 2 (bf16) or 4 (fp32);
    what the model computes in fp32 in every run has 4. The strings "forward" and "backward" stand where a phase begins.
    At the end everything is freed. own: the weights of a user's own model and its heads, in the decoder's place.

    Whose is what. Weights and .grad buffers are the engine's and are not here. The gradient that autograd makes of a
    weight is here, dtype_bytes per element under "backward workspace"; it is alive at the parameter's Ready and freed
    right after it. So an engine that copies it into a bucket does that at Ready. One that keeps it as .grad
    (AccumulateGrad steals it, without a copy) allocates its own right after that Free.
    A module's Enter and Leave come once in the forward and once in the backward, where they enclose the recomputation.
    With tied embeddings "base.output" is not entered: the projection belongs to base.tok_embeddings, which is entered
    twice. Every head's weights are Ready in every micro-step, whatever the task.
    """
    tape = Tape()
    weights = own or parameters(model, heads)
    operators = Operators(tape, batch_size=batch.size, seq_len=batch.seq_len, size=dtype_bytes, weights=weights)
    tape.events.append("forward")
    inputs = _inputs(model, batch, kernels, tape)
    sizes = _Model(model, heads, batch, checkpointing, kernels, operators)
    loss = sizes.loss(sizes.own_hidden(own) if own else sizes.hidden())
    tape.events.append("backward")
    tape.backward(loss)
    del inputs, loss
    return tape.events


def rope_table_bytes(model: ModelShape) -> int:
    """Cosines and sines in fp32, made at the first forward pass and kept."""
    return FP32 * model.max_seq_len * model.head_dim


def _inputs(model: ModelShape, batch: MicroBatch, kernels: Kernels, tape: Tape) -> list[Buffer]:
    """What is alive all through the micro-step: tokens and targets, or tokens and documents.

    With documents come their rotation tables [B, T, K/2], made by the forward pass and kept by all layers, and where
    there is no kernel for them the indices that gather them by length.
    """
    rows = batch.size * batch.seq_len
    if batch.task == LM:
        return [tape.new(INT64 * rows) for _ in range(2)]
    inputs = [tape.new(INT64 * rows) for _ in range(3)]  # tokens, document numbers, positions
    inputs += [tape.new(INT32 * (batch.n_documents + batch.size + 1)), tape.new(INT64 * batch.n_documents)]
    inputs += [tape.new(FP32 * rows * model.head_dim // 2) for _ in range(2)]
    if not kernels.varlen:
        inputs += [tape.new(INT64 * padded_to_groups(rows)), tape.new(INT64 * rows)]
    return inputs


class _Model:
    """genesis_ds.model on sizes: each method is the forward of the module of that name."""

    def __init__(
        self,
        model: ModelShape,
        modules: Mapping[str, nn.Module],
        batch: MicroBatch,
        checkpointing: ActivationCheckpointingConfig,
        kernels: Kernels,
        operators: Operators,
    ) -> None:
        self.model, self.modules, self.batch = model, modules, batch
        self.checkpointing, self.kernels, self.on = checkpointing, kernels, operators
        self.tape, self.heads = operators.tape, Heads(operators)

    def loss(self, hidden: Value) -> Value:
        """MultiTaskModel.forward in training but for the trunk, and the loss on its outputs."""
        task, heads = self.batch.task, self.heads
        self.tape.cause = "logits and loss" if task == LM else "verse head"
        outputs = {LM: self.logits(hidden if task == LM else heads.first_state(hidden))}
        for name, module in self.modules.items():
            verses = heads.mean(hidden, self.batch.n_documents) if name == task else heads.first_state(hidden)
            outputs[name] = heads.head(f"heads.{name}", module, verses)
            del verses
        output = outputs.pop(task)
        loss = self.on.cross_entropy(self.on.to_fp32(output)) if task == LM else heads.loss(output)
        return heads.keep_idle(loss, list(outputs.values()))

    def hidden(self) -> Value:
        tape, c = self.tape, self.model
        with tape.module("base.tok_embeddings"):
            hidden = self.on.embedding("base.tok_embeddings.weight", self.input_cause(0))
        if c.fp32_residual:
            hidden = self.on.to_fp32(hidden, self.input_cause(0))
        for index in range(c.n_layers):
            with tape.module(f"base.layers.{index}"):
                layer = self.layer(index)
                again = self.recomputes(index)
                hidden = tape.checkpoint(layer, hidden, self.checkpointing.offload) if again else layer(hidden)
        with tape.module("base.norm"):
            return self.rms_norm(hidden, "base.norm")

    def own_hidden(self, own: Sequence[Parameter]) -> Value:
        """OwnTrunk.hidden as far as it is known: one state after another, the weights' gradients, and the norm."""
        units: dict[str, list[str]] = defaultdict(list)
        for weight in own:
            if weight.name.startswith("base.model."):
                units[weight.module].append(weight.name)
        hidden, nbytes = None, self.on.rows * self.model.dim * self.on.size
        for unit, names in units.items():
            with self.tape.module(unit):
                hidden = self.on.unknown(hidden, names, nbytes)
        assert hidden is not None, "a model has weights"
        with self.tape.module("base.norm"):
            return self.rms_norm(hidden, "base.norm")

    def logits(self, hidden: Value) -> Value:
        module = "base.tok_embeddings" if self.model.tie_embeddings else "base.output"
        with self.tape.module(module):
            return self.on.linear(hidden, f"{module}.weight")

    def recomputes(self, index: int) -> bool:
        return self.checkpointing.mode == "block" and index % self.checkpointing.every == 0

    def input_cause(self, index: int) -> str:
        """What the input of block `index` is counted under; offloaded, its GPU copy is an ordinary activation."""
        kept = index < self.model.n_layers and self.recomputes(index) and not self.checkpointing.offload
        return "saved block inputs" if kept else "activations"

    def layer(self, index: int) -> Callable[[Value], Value]:
        return lambda x: self.block(x, f"base.layers.{index}", self.input_cause(index + 1))

    def block(self, x: Value, name: str, cause: str) -> Value:
        """cause: what its output is counted under."""
        mlp = self.checkpointing.mode == "mlp"
        middle = "saved block inputs" if mlp and not self.checkpointing.offload else "activations"
        if self.model.norm == "deepnorm":
            h = self.deep_norm(x, self.attention(self.branch_input(x), name), f"{name}.attention_norm.norm", middle)
            return self.deep_norm(h, self.mlp(self.branch_input(h, middle), name), f"{name}.ffn_norm.norm", cause)
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
        on, name = self.on, f"{name}.feed_forward"

        def up(weight: str) -> Value:
            return on.linear(x, f"{name}.{weight}.weight")

        return on.linear(on.mul(on.activation(up("w1")), up("w3")), f"{name}.w2.weight")

    def attention(self, x: Value, name: str) -> Value:
        name = f"{name}.attention"
        q = self.on.rope(self.on.linear(x, f"{name}.wq.weight"))
        k = self.on.rope(self.on.linear(x, f"{name}.wk.weight"))
        v = self.on.linear(x, f"{name}.wv.weight")
        return self.on.linear(self.attend(q, k, v), f"{name}.wo.weight")

    def attend(self, q: Value, k: Value, v: Value) -> Value:
        heads = HeadShape(self.model.n_heads, self.model.head_dim)
        if self.batch.task == LM:
            attend = self.on.flash_attention if self.kernels.flash_attention else self.on.math_attention
            return attend(q, k, v, heads)
        if self.kernels.varlen:
            return self.on.packed_attention(q, k, v, heads, n_documents=self.batch.n_documents)
        return self.on.attention_by_length(q, k, v, heads)

    def branch_input(self, x: Value, cause: str | None = None) -> Value:
        """x.to(dtype) in a block that normalises after its branches."""
        return self.on.from_fp32(x, cause) if self.model.fp32_residual else x

    def deep_norm(self, x: Value, branch: Value, name: str, cause: str) -> Value:
        on = self.on
        if self.model.fp32_residual or on.size == FP32:
            return on.layer_norm(on.add_scaled(branch, x), name, cause)
        return on.from_fp32(on.layer_norm(on.add_scaled(branch, on.to_fp32(x)), name), cause)

    def rms_norm(self, x: Value, name: str) -> Value:
        norm = self.on.fused_rms_norm if self.kernels.fused_rms_norm else self.on.composite_rms_norm
        return norm(x, f"{name}.weight")
