"""A micro-step of the real model on tensors that have storages but no data, written down.

Each storage counts from the operator that makes it until its last tensor is gone. For a GPU a meta tensor stands for
one on it, and what the model keeps on the CPU (save_on_cpu) counts as host memory. For a CPU all tensors are fake ones
of its own, which take the paths that a CPU takes. Left out: storages below
SMALLEST, partial sums inside kernels (the norms' weight gradients; the embedding's backward, which sorts the tokens and
keeps fp32 partial sums: at most (T/10 + V) * D * 4 bytes for an instant at the end of the backward), cuBLAS' workspace
and what is outside torch's allocator, which is the machine's.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genesis_ds.memory.activations.substitutes import flash_workspace
from genesis_ds.memory.deepspeed.timeline import Alloc, Enter, Free, Leave, Ready, Step

SMALLEST = 64
"""Bytes of the smallest storage that is counted: scalars and random state are not."""
ACTIVATIONS, BACKWARD, KEPT_INPUTS = "activations", "backward workspace", "saved block inputs"
LAST_OF_TRUNK = "base.norm"
META = torch.device("meta")


class Recorder(TorchDispatchMode):
    """Writes down what operators allocate and free while it is active, and why.

    What is made outside the trunk, forward and backward, is the head's. In the trunk what the forward or a
    recomputation makes are activations, what the backward makes is its workspace, and what a recomputation begins with
    are saved block inputs.
    """

    def __init__(self, head: str, *, gpu: bool) -> None:
        """head: what the output layer, the heads and the loss are counted under."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Step | str] = []
        self._head, self._gpu = head, gpu
        self._backward = self._in_head = False
        self._module: str | None = None
        """Of the backward, the module it is in."""
        self._numbers: dict[int, int] = {}
        """Address of a storage -> number of its buffer; 0: it is not counted."""
        self._begin_recomputation: set[int] = set()
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._n_buffers = self._n_of_forward = 0

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what is there anyway."""
        for tensor in tensors:
            self._numbers[tensor.untyped_storage()._cdata] = 0

    def count(self, tensor: Tensor, cause: str = ACTIVATIONS) -> None:
        """Count a tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        address, nbytes = storage._cdata, storage.nbytes()
        if address in self._numbers or nbytes < SMALLEST:
            return
        device: Literal["gpu", "host"] = "host" if self._gpu and not tensor.is_meta else "gpu"
        self._numbers[address] = self._alloc(nbytes, KEPT_INPUTS if device == "host" else cause, device)
        self._references[address] = weakref.ref(storage, lambda _: self._free(address))

    def watch(self, model: nn.Module, units: Iterable[str]) -> None:
        """Write down when the modules of these names are entered and left, and when weights have their gradients."""
        for name in units:
            module = model.get_submodule(name)
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(partial(self._leave, name))
        for name, weight in model.named_parameters():
            weight.register_post_accumulate_grad_hook(partial(self._hand_over, name))

    @contextmanager
    def backward(self) -> Iterator[None]:
        """What is inside is the backward pass."""
        self.events.append("backward")
        self._backward, self._n_of_forward = True, self._n_buffers
        yield
        self._enter_backward(None)

    def finish(self) -> tuple[list[Step | str], int]:
        """Return the events, and the bytes of what is still alive, which they leave out: the model keeps it."""
        kept = {number for number in self._numbers.values() if number}
        self._references.clear()
        nbytes, events = 0, []
        for event in self.events:
            if isinstance(event, Alloc) and int(event.key) in kept:
                nbytes += event.nbytes
                continue
            if isinstance(event, Alloc) and int(event.key) in self._begin_recomputation:
                event = replace(event, cause=KEPT_INPUTS)
            events.append(event)
        return events, nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._recomputes:
            self._mark_inputs(args)
        cause = self._cause(args)
        result = self._run(func, args, dict(kwargs or {}))
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.count(leaf, cause)
        if self._backward and self._gpu:
            self._pass(flash_workspace(func.name(), args))
        return result

    def _run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator as on the machine."""
        aten = torch.ops.aten
        if self._gpu and func is aten._to_copy.default and kwargs.get("device", META).type == "cpu":
            return torch.empty(args[0].shape, dtype=kwargs["dtype"], device="cpu")
        if self._gpu and func is aten.copy_.default and args[1].is_meta and not args[0].is_meta:
            return args[0]
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        # Autograd adds a second gradient into the first in place, unless that is a view, whose base is a second
        # reference to its storage (input_buffer.cpp, can_accumulate_inplace); with a dispatch mode it never does.
        if func is aten.add.Tensor and self._backward and not torch.is_grad_enabled() and not args[0]._is_view():
            func = aten.add_.Tensor
        return func(*args, **kwargs)

    @property
    def _recomputes(self) -> bool:
        return self._backward and not self._in_head and torch.is_grad_enabled()

    def _cause(self, args: tuple[Any, ...]) -> str:
        if self._in_head:
            return self._head
        if self._gpu and self._backward and args and isinstance(args[0], Tensor) and not args[0].is_meta:
            return KEPT_INPUTS  # copied back from the host
        return BACKWARD if self._backward and not torch.is_grad_enabled() else ACTIVATIONS

    def _mark_inputs(self, args: tuple[Any, ...]) -> None:
        for argument in args:
            if isinstance(argument, Tensor) and argument.requires_grad:
                number = self._numbers.get(argument.untyped_storage()._cdata, 0)
                if 0 < number <= self._n_of_forward:
                    self._begin_recomputation.add(number)

    def _alloc(self, nbytes: int, cause: str, device: Literal["gpu", "host"] = "gpu") -> int:
        self._n_buffers += 1
        self.events.append(Alloc(str(self._n_buffers), cause, nbytes, device))
        return self._n_buffers

    def _free(self, address: int) -> None:
        del self._references[address]
        self.events.append(Free(str(self._numbers.pop(address))))

    def _pass(self, sizes: list[int]) -> None:
        """Allocate buffers and free them at once."""
        numbers = [self._alloc(nbytes, "attention workspace") for nbytes in sizes]
        self.events += [Free(str(number)) for number in numbers]

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        if not self._backward:  # then it is a part of a recomputation
            self.events.append(Enter(name))

    def _leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._backward:
            return
        self.events.append(Leave(name))
        self._in_head |= name == LAST_OF_TRUNK
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.grad_fn:
                leaf.grad_fn.register_prehook(lambda _: self._enter_backward(name))

    def _enter_backward(self, name: str | None) -> None:
        if self._module:
            self.events.append(Leave(self._module))
        if name:
            self.events.append(Enter(name))
        self._module = name
        self._in_head &= name != LAST_OF_TRUNK

    def _hand_over(self, name: str, weight: nn.Parameter) -> None:
        self.events.append(Ready(name))
        weight.grad = None
