"""A model of a user's own: a class named by `extensions.model`, as the trunk that the heads stand on.

Shapes: B batch, T time, D width, V vocabulary.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape, RunConfig
from genesis_ds.errors import Unavailable, UserError
from genesis_ds.extensions import load_extension
from genesis_ds.model.documents import Documents
from genesis_ds.model.noise import Noise
from genesis_ds.model.norm import RMSNorm
from genesis_ds.model.output import OutputLayer, ReadOut, unit_logits_gain
from genesis_ds.model.transformer import Transformer
from genesis_ds.model.trunk import MakeTrunk, Observe

KEY = "extensions.model"
VOCABULARY = 16
"""Token ids of the model that is probed."""
PROBE = (2, 8)
"""Rows and tokens of a forward pass without values, which shows the shape that comes out."""


class OwnTrunk(nn.Module):
    """A user's module under a norm and an output layer, which are the decoder's.

    The module is built as Class(shape, **options). Its forward takes token ids [B, T], and `documents` if it has a
    parameter of that name, and returns hidden states [B, T, D] with D = shape.dim. Its `blocks` is an nn.ModuleList of
    shape.n_layers modules.
    """

    def __init__(self, config: ModelShape, checkpointing: ActivationCheckpointingConfig, path: str) -> None:
        """path: module:Class. Raises UserError for a module that is not as said above."""
        super().__init__()
        self.config, self.path = config, path
        model_class = own_class(path)
        self.takes_documents = takes_documents(model_class)
        _require_options(model_class, config, path)
        self.model = model_class(config, **config.options)
        _require_parts(self.model, config, path)
        for index, block in enumerate(self.layers):
            if checkpointing.mode == "block" and index % checkpointing.every == 0:
                block.forward = partial(_recompute, block, block.forward, checkpointing.offload)
        self.norm = RMSNorm(config.dim)
        self.output = OutputLayer(config, unit_logits_gain(config), ReadOut.of(config, checkpointing))

    @property
    def layers(self) -> nn.ModuleList:
        """The module's blocks."""
        blocks = self.model.blocks
        assert isinstance(blocks, nn.ModuleList), "the constructor has seen it"
        return blocks

    def hidden(
        self,
        tokens: Tensor,
        documents: Documents | None = None,
        observe: Observe | None = None,
        *,
        noise: Noise | None = None,
    ) -> Tensor:
        """Return the normed hidden states [B, T, D] of token ids [B, T] (see Trunk)."""
        assert noise is None, "a run with noise has the decoder"
        assert self.takes_documents or documents is None, "tasks with documents are not trained with this model"
        with ExitStack() as hooks:
            for depth, block in enumerate(self.layers, 1):
                if observe:
                    hooks.callback(block.register_forward_hook(partial(_observe, observe, depth)).remove)
            hidden = self.model(tokens, documents=documents) if self.takes_documents else self.model(tokens)
        wanted = (*tokens.shape, self.config.dim)
        if not isinstance(hidden, Tensor) or tuple(hidden.shape) != wanted:
            found = list(hidden.shape) if isinstance(hidden, Tensor) else f"a {type(hidden).__name__}"
            raise UserError(
                f"{KEY}: {self.path} makes {found} of tokens {list(tokens.shape)}; return hidden states "
                f"{list(wanted)}, the last of them model.dim"
            )
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the logits [B, T, V] of normed hidden states [B, T, D], or the nats of targets (see ReadOut)."""
        found: Tensor = self.output(hidden, targets)
        return found


def trunk_of(run: RunConfig) -> MakeTrunk:
    """Return what makes the run's trunk: the decoder, or the user's own."""
    path = run.extensions.model
    if path is None:
        return Transformer
    return partial(OwnTrunk, path=path)


def require_model(run: RunConfig) -> None:
    """Import the user's own model, if the run has one.

    Raises UserError where it cannot be had, and where a state depends on a later token or on another document.
    """
    path = run.extensions.model
    if path is None:
        return
    own_class(path)
    shape = replace(run.model.of_vocabulary(VOCABULARY), n_layers=min(2, run.model.n_layers))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            seen = _what_states_see(OwnTrunk(shape, ActivationCheckpointingConfig(), path).eval())
        except Exception:  # it is built again, where that is reported
            return
    if seen:
        raise UserError(f"{KEY}: {path} lets a state depend on {seen}; a state may depend on what is before it alone")


def _what_states_see(trunk: OwnTrunk) -> str:
    """Return what the states of a model depend on and may not; nothing where they are as they should be."""
    tokens = torch.arange(PROBE[1]).expand(PROBE).contiguous() % VOCABULARY
    half = PROBE[1] // 2
    changed = {"the tokens after it": tokens.clone(), "tokens of another document": tokens.clone()}
    changed["the tokens after it"][:, half:] += 1
    changed["tokens of another document"][:, :half] += 1
    states = trunk.hidden(tokens)
    if not torch.equal(states, trunk.hidden(tokens)):
        return ""  # it is random even in evaluation
    if not torch.allclose(states[:, :half], trunk.hidden(changed["the tokens after it"])[:, :half], atol=1e-4):
        return "the tokens after it"
    if trunk.takes_documents:
        documents = Documents.of((torch.arange(PROBE[1]) >= half).long().expand(PROBE).contiguous())
        first, second = (trunk.hidden(each, documents) for each in (tokens, changed["tokens of another document"]))
        if not torch.allclose(first[:, half:], second[:, half:], atol=1e-4):
            return "tokens of another document"
    return ""


def own_class(path: str) -> type[nn.Module]:
    """Return the class at module:Class. Raises UserError where it cannot be imported or is no nn.Module."""
    return load_extension(KEY, path, nn.Module)


def takes_documents(model_class: type[nn.Module]) -> bool:
    """Return whether the forward of a class keeps the documents of a row apart."""
    return "documents" in inspect.signature(model_class.forward).parameters


def require_documents(run: RunConfig) -> None:
    """Raise Unavailable where the run's model does not keep the documents of a row apart, as verses need."""
    path = run.extensions.model
    if path and not takes_documents(own_class(path)):
        raise Unavailable(f"{path} does not take documents; its forward needs a parameter `documents`")


@lru_cache(maxsize=8)
def meta_trunk(path: str, shape: ModelShape) -> OwnTrunk:
    """Return a user's model on torch's meta device: all of it but the weights' values.

    Raises UserError where it cannot be made there, or makes something other than hidden states [B, T, D].
    """
    try:
        with torch.device("meta"):
            trunk = OwnTrunk(shape, ActivationCheckpointingConfig(), path)
    except UserError:
        raise
    except Exception as error:
        _require_made_on_cpu(path, shape, error)
        raise UserError(
            f"{KEY}: {path} cannot be made on torch's meta device, where a model has no values: "
            f"{type(error).__name__}: {error}; make numbers with Python's math, not with tensors"
        ) from error
    try:
        with torch.no_grad():
            trunk.hidden(torch.zeros(PROBE, dtype=torch.long, device="meta"))
    except UserError:
        raise
    except Exception:  # it needs values, or a device: its first real forward pass looks at the shape again
        pass
    return trunk


def _require_made_on_cpu(path: str, shape: ModelShape, error: Exception) -> None:
    """Raise the error of a constructor as it is, with its traceback, where one block on a CPU fails as well."""
    try:
        own_class(path)(replace(shape, n_layers=1), **shape.options)
    except Exception:
        raise error from None


def _require_options(model_class: type[nn.Module], shape: ModelShape, path: str) -> None:
    signature = inspect.signature(model_class)
    try:
        signature.bind(shape, **shape.options)
    except TypeError as error:
        takes = ", ".join(list(signature.parameters)[1:]) or "none"
        raise UserError(f"model.options: {path}: {error}; the options it takes: {takes}") from error


def _require_parts(model: nn.Module, shape: ModelShape, path: str) -> None:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        found = "no blocks" if blocks is None else f"blocks that are a {type(blocks).__name__}"
        raise UserError(f"{KEY}: {path} has {found}; make `self.blocks` an nn.ModuleList of its layers")
    if len(blocks) != shape.n_layers:
        raise UserError(
            f"{KEY}: {path} has {len(blocks)} blocks, but model.n_layers is {shape.n_layers}; make shape.n_layers of "
            "them, or give the run their number"
        )
    kept = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if others := sorted(model.state_dict().keys() - kept):
        raise UserError(
            f"{KEY}: {path} keeps the buffer {others[0]}, which checkpoints do not hold; register it with "
            "persistent=False and let the constructor fill it"
        )


def _observe(observe: Observe, depth: int, block: nn.Module, inputs: Any, output: Any) -> None:
    """A forward hook. Of a block that returns several things the first is what the next one gets."""
    observe(depth, output[0] if isinstance(output, tuple) else output)


def _recompute(block: nn.Module, forward: Callable[..., Any], offload: bool, *inputs: Any, **named: Any) -> Any:
    """Call a block's forward, in training keeping its inputs alone and computing the rest again in the backward."""
    if not block.training:
        return forward(*inputs, **named)
    with save_on_cpu(pin_memory=torch.cuda.is_available()) if offload else nullcontext():
        return checkpoint(forward, *inputs, use_reentrant=False, **named)
