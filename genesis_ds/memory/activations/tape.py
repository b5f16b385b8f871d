"""Eager autograd on sizes: what is allocated and freed, in torch's order, while a model runs forward and backward.

A Buffer stands for a tensor's storage. It is alive while Python refers to it, as a tensor is, so code written line
for line like the model keeps and frees what the model keeps and frees. Three rules are torch's (2.13):
- a node of the graph keeps what it saved until its backward has run (SavedVariable; release_variables);
- nodes run backward in the reverse order of their creation, and a parameter's gradient is handed over as soon as its
  last contribution is there (Engine's ready queue; AccumulateGrad has the highest priority);
- a second gradient for one value is added into the first in place, unless that is a view, whose base is a second
  reference to the storage (input_buffer.cpp, can_accumulate_inplace); then the sum is a new tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step


class Buffer:
    """Memory that is allocated now and freed when nothing refers to it any more."""

    __slots__ = ("_events", "_key", "nbytes")

    def __init__(
        self, events: list[Step | str], key: str, cause: str, *, nbytes: int, device: Literal["gpu", "host"]
    ) -> None:
        self._events, self._key, self.nbytes = events, key, nbytes
        events.append(Alloc(key, cause, nbytes, device))

    def __del__(self) -> None:
        self._events.append(Free(self._key))


class BufferView(Buffer):
    """A view of a part of a buffer: it has no memory of its own and keeps the whole alive."""

    __slots__ = ("_whole",)

    def __init__(self, whole: Buffer, nbytes: int) -> None:
        self._whole, self.nbytes = whole, nbytes

    def __del__(self) -> None:
        """Free nothing: the whole does."""


class Gradient:
    """The gradient of one value, as it adds up."""

    __slots__ = ("buffer", "view")

    def __init__(self) -> None:
        self.buffer: Buffer | None = None
        self.view = False
        """Whether the buffer came as a view."""

    def take(self) -> Buffer:
        """Return the whole gradient, which nothing else refers to from now on."""
        buffer, self.buffer = self.buffer, None
        assert buffer is not None, "a node runs backward after all that used its output"
        return buffer


class ParameterGradient(Gradient):
    """The gradient of a parameter that `uses` nodes contribute to."""

    __slots__ = ("name", "uses")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.uses = name, 0


class Value:
    """A tensor: its storage and the gradient it will get. A view is the same Value."""

    __slots__ = ("buffer", "gradient")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.gradient = Gradient()


Backward = Callable[[Gradient], list[Buffer]]
"""The output's gradient -> the gradients of the inputs, in their order. It takes the former to free it early."""


class _Recomputed:
    """What a node inside a recomputed function has saved: nothing until the function has run again."""

    def __init__(self, source: "_Recomputation", index: int) -> None:
        self.source, self.index = source, index


Saved = tuple[Buffer, ...] | _Recomputed


@dataclass(slots=True)
class _Node:
    """An operator in the graph: the gradient it takes, those it makes, and what it has saved for that."""

    output: Gradient
    inputs: tuple[Gradient, ...]
    saved: Saved
    backward: Backward
    views: bool
    """Whether the gradients it makes are views."""


class _EnoughError(Exception):
    """All that was saved has been recomputed."""


class _Recomputation:
    """torch.utils.checkpoint (non-reentrant, early stop) of a function of one tensor."""

    def __init__(self, tape: "Tape", function: Callable[[Value], Value], kept: Buffer, offloaded: bool) -> None:
        self.tape, self.function, self.kept, self.offloaded = tape, function, kept, offloaded
        self.n_saved = 0
        self.again: dict[int, tuple[Buffer, ...]] | None = None

    def hold(self) -> _Recomputed:
        """Count, in the first run, what would be saved."""
        self.n_saved += 1
        return _Recomputed(self, self.n_saved - 1)

    def keep(self, buffers: tuple[Buffer, ...]) -> None:
        """Keep buffers in the second run, and stop it once nothing more is needed."""
        assert self.again is not None, "the function runs again"
        self.again[len(self.again)] = buffers
        if len(self.again) == self.n_saved:
            raise _EnoughError

    def release(self, index: int) -> tuple[Buffer, ...]:
        """Return what a node has saved; the first node that asks makes the function run again."""
        if self.again is None:
            self.again = {}
            self._run_again()
        return self.again.pop(index)

    def _run_again(self) -> None:
        cause = self.tape.start_second_run(self)
        x = self.tape.new(self.kept.nbytes, "saved block inputs") if self.offloaded else self.kept
        with suppress(_EnoughError):  # not in a generator's `except`: from Python 3.12 on that keeps the frames alive
            self.function(Value(x))
        self.tape.end_second_run(cause)


class Tape:
    """The graph of one forward pass, and the events of it and of its backward pass."""

    def __init__(self) -> None:
        self.events: list[Step | str] = []
        self.cause = "activations"
        self._n_buffers = 0
        self._nodes: list[_Node | Step] = []
        self._parameters: dict[str, ParameterGradient] = {}
        self._first_run: _Recomputation | None = None
        self._second_run: _Recomputation | None = None

    def new(self, nbytes: int, cause: str | None = None, device: Literal["gpu", "host"] = "gpu") -> Buffer:
        """Make a buffer, counted under `cause`, by default under the tape's present one."""
        self._n_buffers += 1
        cause = cause or self.cause
        return Buffer(self.events, f"{cause} {self._n_buffers}", cause, nbytes=nbytes, device=device)

    def parameter(self, name: str) -> Gradient:
        """Return the gradient of a parameter, as an input of one more node."""
        found = self._parameters.setdefault(name, ParameterGradient(name))
        found.uses += self._second_run is None
        return found

    def save(self, *buffers: Buffer) -> Saved:
        """Keep buffers for a node's backward. Call it where torch does: inputs before the output is made."""
        if self._second_run is not None:
            self._second_run.keep(buffers)
        elif self._first_run is not None:
            return self._first_run.hold()
        return buffers

    def record(
        self, output: Value, inputs: tuple[Gradient, ...], saved: Saved, backward: Backward, views: bool = False
    ) -> Value:
        """Enter a node into the graph and return its output. views: the gradients it makes are views."""
        if self._second_run is None:
            self._nodes.append(_Node(output.gradient, inputs, saved, backward, views=views))
        return output

    @contextmanager
    def module(self, name: str) -> Iterator[None]:
        """Mark what happens inside as a module's, and so its backward, with the recomputation if there is one."""
        self.events.append(Enter(name))
        self._nodes.append(Leave(name))
        yield
        self.events.append(Leave(name))
        self._nodes.append(Enter(name))

    def checkpoint(self, function: Callable[[Value], Value], x: Value, offload: bool) -> Value:
        """Return function(x), of which only x is kept (on the host if offload); backward computes the rest again."""
        kept = self.new(x.buffer.nbytes, "saved block inputs", "host") if offload else x.buffer
        self._first_run = _Recomputation(self, function, kept, offload)
        output = function(x)
        self._first_run = None
        return output

    def start_second_run(self, recomputation: _Recomputation) -> str:
        """Record no nodes from now on, and save for the recomputation. Return the present cause."""
        cause, self.cause = self.cause, "activations"
        self._second_run = recomputation
        return cause

    def end_second_run(self, cause: str) -> None:
        """Go back to the backward pass."""
        self._second_run, self.cause = None, cause

    def backward(self, loss: Value) -> None:
        """Run the graph backward and use it up."""
        self.cause = "backward workspace"
        loss.gradient.buffer = self.new(loss.buffer.nbytes)
        while self._nodes:
            node = self._nodes.pop()
            if isinstance(node, _Node):
                self._run(node)
            else:
                self.events.append(node)
            del node

    def _run(self, node: _Node) -> None:
        saved = node.saved.source.release(node.saved.index) if isinstance(node.saved, _Recomputed) else node.saved
        gradients = node.backward(node.output)
        node.output.buffer, node.saved = None, ()
        del saved
        for gradient in node.inputs:
            self._add(gradient, gradients.pop(0), node.views)
        for gradient in node.inputs:
            if isinstance(gradient, ParameterGradient):
                gradient.uses -= 1
                if not gradient.uses:
                    self.events.append(Ready(gradient.name))
                    gradient.buffer = None

    def _add(self, gradient: Gradient, buffer: Buffer, view: bool) -> None:
        """Add one more contribution to a value's gradient."""
        if gradient.buffer is None:
            gradient.buffer, gradient.view = buffer, view
        elif gradient.view:
            gradient.buffer, gradient.view = self.new(buffer.nbytes), False
