"""The heads on sizes: Documents.mean and those of genesis_ds/tasks that KNOWN lists, line for line.

n documents, each in one example; D width, P projection width. Left out: what has a few bytes for a document (counts,
norms, indices), what the backward of a normalisation makes in passing, and the loss on a head's output.
"""

from torch import nn

from genesis_ds.memory.activations.operators import FP32, INT64, Operators
from genesis_ds.memory.activations.tape import Buffer, BufferView, Gradient, Value
from genesis_ds.tasks.coherence import CoherenceHead
from genesis_ds.tasks.contrast import ProjectionHead

KNOWN = (CoherenceHead, ProjectionHead)
"""Heads whose activations are counted."""


class Heads:
    """Each method is the function or operator of that name."""

    def __init__(self, operators: Operators) -> None:
        self.on, self.tape, self.new = operators, operators.tape, operators.new

    def first_state(self, hidden: Value) -> Value:
        """hidden[0, :1], for an idle head. Its gradient goes into zeros of a row, and those into zeros of all rows."""
        whole, row = hidden.buffer.nbytes, hidden.buffer.nbytes // self.on.batch_size
        state = Value(BufferView(hidden.buffer, whole // self.on.rows))

        def backward(gradient: Gradient) -> list[Buffer]:
            in_row = self.new(row)
            gradient.take()
            in_all = self.new(whole)
            del in_row
            return [in_all]

        return self.tape.record(state, (hidden.gradient,), (), backward)

    def mean(self, hidden: Value, n_documents: int) -> Value:
        """Hidden states [B, T, D] -> normed means [n, D] in the run's dtype.

        The mean is an fp32 product that keeps its weights [n, B*T], the norm keeps the mean.
        """
        rows = self.on.rows
        member = self.new(n_documents * rows)
        wide_member, count = self.new(FP32 * n_documents * rows), self.new(INT64 * n_documents)
        weights = self.new(FP32 * n_documents * rows)
        del wide_member, count
        wide = self.on.to_fp32(hidden)
        saved = self.tape.save(weights)
        output = Value(self.new(wide.buffer.nbytes // rows * n_documents))
        self.tape.record(output, (wide.gradient,), saved, self.on.fresh(wide.buffer.nbytes))
        del member, wide
        normed = Value(self.new(output.buffer.nbytes))
        saved = self.tape.save(output.buffer)
        self.tape.record(normed, (output.gradient,), saved, self.on.fresh(output.buffer.nbytes))
        return self.on.from_fp32(normed)

    def head(self, name: str, module: nn.Module, verses: Value) -> Value:
        """What a head, heads.<task>, makes of verses [n, D]."""
        with self.tape.module(name):
            if isinstance(module, CoherenceHead):
                return self.coherence(name, verses)
            if isinstance(module, ProjectionHead):
                return self.projection(name, verses)
            return self.on.unknown(verses, [f"{name}.{weight}" for weight, _ in module.named_parameters()], FP32)

    def coherence(self, name: str, verses: Value) -> Value:
        """Verses [n, D] -> logits in fp32, one for each pair."""
        on = self.on
        half = -(-verses.buffer.nbytes // 2)  # each verse is in one pair
        x, y = self.index(verses, half), self.index(verses, half)
        parts = [x, y, self.absolute(self.subtract(x, y)), on.mul(x, y)]
        hidden = on.linear(self.concatenate(parts), f"{name}.hidden.weight")
        return on.to_fp32(on.linear(on.activation(hidden), f"{name}.output.weight"))

    def projection(self, name: str, verses: Value) -> Value:
        """Verses [n, D] -> unit vectors [n, P] in fp32."""
        on = self.on
        hidden = on.linear(verses, f"{name}.hidden.weight")
        projected = on.to_fp32(on.linear(on.activation(hidden), f"{name}.output.weight"))
        return self.index(self.normalise(projected), projected.buffer.nbytes)

    def index(self, x: Value, nbytes: int) -> Value:
        """Rows of x, nbytes in all; keeps nothing but their indices. The gradient goes into zeros like x."""
        return self.tape.record(Value(self.new(nbytes)), (x.gradient,), (), self.on.fresh(x.buffer.nbytes))

    def subtract(self, x: Value, y: Value) -> Value:
        """x - y; keeps nothing, and x gets the output's gradient itself."""
        output = Value(self.new(x.buffer.nbytes))

        def backward(gradient: Gradient) -> list[Buffer]:
            of_x = gradient.take()
            return [of_x, self.new(of_x.nbytes)]

        return self.tape.record(output, (x.gradient, y.gradient), (), backward)

    def absolute(self, x: Value) -> Value:
        """|x|; keeps x, and its backward computes the signs."""
        saved, nbytes = self.tape.save(x.buffer), x.buffer.nbytes

        def backward(_: Gradient) -> list[Buffer]:
            signs = self.new(nbytes)
            product = self.new(nbytes)
            del signs
            return [product]

        return self.tape.record(Value(self.new(nbytes)), (x.gradient,), saved, backward)

    def concatenate(self, parts: list[Value]) -> Value:
        """BufferViews of one size, side by side; keeps nothing, and each part's gradient is a view of the whole."""
        nbytes, gradients = parts[0].buffer.nbytes, tuple(part.gradient for part in parts)

        def backward(gradient: Gradient) -> list[Buffer]:
            whole = gradient.take()
            return [BufferView(whole, nbytes) for _ in gradients]

        return self.tape.record(Value(self.new(nbytes * len(parts))), gradients, (), backward, views=True)

    def normalise(self, x: Value) -> Value:
        """F.normalize; keeps x."""
        saved = self.tape.save(x.buffer)
        return self.tape.record(Value(self.new(x.buffer.nbytes)), (x.gradient,), saved, self.on.fresh(x.buffer.nbytes))

    def loss(self, output: Value) -> Value:
        """The loss on a head's output; keeps the output, and what it makes in between is left out."""
        saved, backward = self.tape.save(output.buffer), self.on.fresh(output.buffer.nbytes)
        return self.tape.record(Value(self.new(FP32)), (output.gradient,), saved, backward)

    def keep_idle(self, loss: Value, idle: list[Value]) -> Value:
        """loss + 0.0 * the sum of the idle heads' outputs, whose gradients are one number, expanded."""
        if not idle:
            return loss

        def backward(gradient: Gradient) -> list[Buffer]:
            return [gradient.take(), *(self.new(FP32) for _ in idle)]

        inputs = loss.gradient, *(value.gradient for value in idle)
        return self.tape.record(Value(self.new(FP32)), inputs, (), backward)
