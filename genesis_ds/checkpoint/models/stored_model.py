"""A model in files: its shape, and its weights, each read when it is asked for."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import Parameter, parameters
from genesis_ds.model.transformer import Transformer
from genesis_ds.stored import parse_stored
from genesis_ds.tokenizer import Tokenizer, load_tokenizer, open_tokenizer

BASE, HEADS = "base.", "heads."
"""What the names of MultiTaskModel's weights begin with: the decoder's, and those of the tasks' heads."""


@dataclass(frozen=True)
class Tensors:
    """Named tensors in files, each read when it is asked for."""

    where: Path
    """The file or directory, for messages."""
    shapes: Mapping[str, torch.Size]
    read: Callable[[str], Tensor]
    """Name -> the whole tensor, in fp32 on the CPU."""

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """Return the tensors in `names`, a new name -> the present one, under their new names."""
        return Tensors(
            self.where, {new: self.shapes[old] for new, old in names.items()}, lambda new: self.read(names[new])
        )


@dataclass(frozen=True)
class StoredModel:
    """A whole trunk and the heads that are with it. Raises UserError unless a decoder's tensors are the shape's."""

    config: ModelShape
    tensors: Tensors
    """Its weights under MultiTaskModel's names."""
    about: dict[str, Any] = field(default_factory=dict)
    """Its tokenizer and global_step where they are known, as plain data."""
    own: str | None = None
    """module:Class of a user's own trunk. Its tensors are taken as they are: the class is never imported for them."""
    notices: list[str] = field(default_factory=list)
    """What was made of the files that is not seen in the model, or not taken of them, a line each."""

    def __post_init__(self) -> None:
        if self.own is None:
            self.require(parameters(self.config))

    def require(self, trunk: Sequence[Parameter]) -> None:
        """Raise UserError unless the tensors, but for those of heads, are these parameters."""
        wanted = {parameter.name: torch.Size(parameter.shape) for parameter in trunk}
        there = {name: shape for name, shape in self.tensors.shapes.items() if not name.startswith(HEADS)}
        differing = [
            *(f"{_short(name)} is missing" for name in wanted if name not in there),
            *(f"{_short(name)} belongs to no part of {self.kind}" for name in there if name not in wanted),
            *(
                f"{_short(name)} has the shape {list(there[name])}, not {list(shape)}"
                for name, shape in wanted.items()
                if name in there and there[name] != shape
            ),
        ]
        if differing:
            more = f", and {len(differing) - 1} more such" if len(differing) > 1 else ""
            raise UserError(f"{self.tensors.where}: {differing[0]}{more}; give the files of a whole model, unchanged")

    def require_decoder(self) -> None:
        """Raise UserError where the trunk is a user's own."""
        if self.own is not None:
            raise UserError(
                f"{self.tensors.where}: a model of {self.own}, which is imported for a run that names it in its YAML, "
                "and for nothing else; only the decoder of genesis_ds can be had from files alone"
            )

    def tokenizer(self, given: str | None = None) -> Tokenizer | None:
        """Return the tokenizer that is given, `bytes` or a path, or else the model's own; None where it has none.

        Raises UserError where it is not there, and for another than that of the model's training.
        """
        said = self.about.get("tokenizer", {})
        if not given and not said:
            return None
        path = (None if given == "bytes" else given) if given else said.get("path")
        try:
            found = open_tokenizer(path) if given else load_tokenizer(said["kind"], path)
        except UserError as error:
            raise UserError(
                f"{self.tensors.where}: {error}; give this command in the folder that the run was started in, or bring "
                "the file there; generate and score also take it as --tokenizer"
            ) from error
        self.require_tokenizer(found.fingerprint, path or "bytes")
        return found

    def require_tokenizer(self, fingerprint: str, whose: str) -> None:
        """Raise UserError unless a tokenizer is the one of the model's training, where that is known."""
        trained_with = self.about.get("tokenizer", {}).get("fingerprint")
        if trained_with and not fingerprint.startswith(trained_with):
            raise UserError(
                f"{self.tensors.where}: trained with the tokenizer {trained_with}, and that of {whose} is "
                f"{fingerprint[:16]}, by which its ids mean other text; give the one it was trained with"
            )

    @property
    def kind(self) -> str:
        """What the trunk is."""
        return self.own or "the decoder"

    @property
    def names(self) -> list[str]:
        """Names of all weights, the trunk's first, in the model's order."""
        there = [name for name in self.tensors.shapes if not name.startswith(HEADS)]
        trunk = there if self.own else [parameter.name for parameter in parameters(self.config)]
        return trunk + sorted(self.head_shapes)

    @property
    def head_shapes(self) -> dict[str, torch.Size]:
        """Shapes of the weights of the tasks' heads."""
        return {name: shape for name, shape in self.tensors.shapes.items() if name.startswith(HEADS)}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with a head."""
        return sorted({name.split(".")[1] for name in self.head_shapes})

    def decoder(self) -> Transformer:
        """Return the decoder, in fp32 on the CPU, in evaluation mode. Raises UserError for a user's own trunk."""
        self.require_decoder()
        with torch.device("meta"):
            model = Transformer(self.config)
        model.load_state_dict({name: self.tensors.read(BASE + name) for name in model.state_dict()}, assign=True)
        return model.eval()


def safetensors_in(where: Path, files: Iterable[Path]) -> Tensors:
    """Return the tensors of safetensors files. Raises UserError for a file that is damaged."""
    holders: dict[str, Any] = {}
    for file in files:
        try:
            opened = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise UserError(f"{file}: damaged, or not a safetensors file ({error})") from error
        holders |= dict.fromkeys(opened.keys(), opened)
    shapes = {name: torch.Size(holder.get_slice(name).get_shape()) for name, holder in holders.items()}
    return Tensors(where, shapes, lambda name: holders[name].get_tensor(name).float())


def model_config(run: Any, where: Path) -> ModelShape:
    """Return the shape that the section `model` of plain data describes, with the attention kernel left open.

    where: the file it is of, for messages. Raises UserError for data without such a section.
    """
    valid = {field.name for field in dataclasses.fields(ModelShape)}
    data = run.get("model") if isinstance(run, dict) else None
    if not isinstance(data, dict) or not data.keys() <= valid or data.get("vocab_size") is None:
        raise UserError(f"{where}: has no whole section `model` of this version; was it written by another program?")
    content = json.dumps(data | {"preset": None, "attention": "auto"})
    return parse_stored(content, ModelShape, f"{where}: model", "restore it, or use another one")


def own_model(run: Any, where: Path) -> str | None:
    """The path of a user's own model that the section `extensions` of plain data names; it is not imported."""
    extensions = run.get("extensions") or {}
    path = extensions.get("model") if isinstance(extensions, dict) else extensions
    if path is not None and not isinstance(path, str):
        raise UserError(f"{where}: extensions.model: {path!r} is no module:Class; restore it, or use another one")
    return path


def _short(name: str) -> str:
    return name.removeprefix(BASE)
