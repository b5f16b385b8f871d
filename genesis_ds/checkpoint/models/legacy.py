"""Checkpoints of the earlier Genesis Arbiter code.

A directory with model.safetensors, or training_state.pt with a `model_state_dict`, and perhaps a config.json. Where
both files are there model.safetensors is read and the pickle is not opened. Names are those of a decoder, or of one
inside a multi-task wrapper: then they begin with `base.`, and what is beside it are the wrapper's heads.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.checkpoint.models.stored_model import BASE, HEADS, StoredModel, Tensors, safetensors_in
from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer
from genesis_ds.stored import read_stored

WEIGHTS, PICKLE, CONFIG = "model.safetensors", "training_state.pt", "config.json"
STATE_DICT = "model_state_dict"


@dataclass(frozen=True)
class LegacyConfig:
    """A config.json of the earlier code; keys that are not fields here are not read."""

    n_heads: int | None = None
    max_seq_len: int | None = None
    rope_theta: float | None = None
    tie_embeddings: bool | None = None
    vocab_size: int | None = None
    dim: int | None = None
    n_layers: int | None = None
    intermediate_size: int | None = None
    n_kv_heads: int | None = None


CHECKED = ("vocab_size", "dim", "n_layers", "intermediate_size", "n_kv_heads")
"""Sizes that a config.json may give besides; the tensors decide, and a contradiction is an error."""


def load_model(directory: str | Path, n_heads: int | None = None, trust: bool = False) -> Transformer:
    """Return the decoder of such a checkpoint, in fp32 on the CPU, in evaluation mode. Heads are left out.

    n_heads: where no config.json beside it says it. trust: read a pickle that holds other classes than tensors' and
    plain data, whose code then runs. Raises UserError for a tensor that is missing, left over or of a wrong shape.
    """
    model = read_legacy(Path(directory), n_heads, trust)
    if n_heads not in (None, found := model.config.n_heads):
        raise UserError(f"{Path(directory) / CONFIG}: n_heads is {found}, not {n_heads}; give the one that is right")
    return model.decoder()


def read_legacy(directory: Path, n_heads: int | None = None, trust: bool = False) -> StoredModel:
    """Return the model of such a checkpoint with its heads, its weights still in the files.

    n_heads, trust: as in load_model, but a config.json decides against n_heads.
    """
    tensors = _tensors(directory, trust)
    tensors = tensors.renamed(_names(tensors))
    config = directory / CONFIG
    said = read_stored(config, LegacyConfig, "mend it or remove it") if config.exists() else LegacyConfig()
    n_heads = said.n_heads or n_heads
    if n_heads is None:
        raise UserError(
            f"{directory}: the number of heads is in no tensor; put a {CONFIG} with n_heads there, or give n_heads"
        )
    return StoredModel(_shape(tensors, n_heads, said), tensors)


def _tensors(directory: Path, trust: bool) -> Tensors:
    """Return the tensors under the file's own names."""
    if (path := directory / WEIGHTS).is_file():
        return safetensors_in(path, [path])
    if not (path := directory / PICKLE).is_file():
        raise UserError(f"{directory}: no model is there; give a directory with {WEIGHTS} or {PICKLE}")
    state = safe_load(path, trust=trust)
    weights = state.get(STATE_DICT) if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise UserError(f"{path}: holds no {STATE_DICT} of tensors; give a training_state.pt as the trainer wrote it")
    return Tensors(path, {name: value.shape for name, value in weights.items()}, lambda name: weights[name].float())


def _names(tensors: Tensors) -> dict[str, str]:
    """Return our name of each tensor -> the file's."""
    if any(name.startswith(BASE) for name in tensors.shapes):
        return {name if name.startswith((BASE, HEADS)) else f"{HEADS}{name}": name for name in tensors.shapes}
    return {name if name.startswith(HEADS) else f"{BASE}{name}": name for name in tensors.shapes}


def _shape(tensors: Tensors, n_heads: int, said: LegacyConfig) -> ModelShape:
    """Return the model's shape: sizes from the tensors; the rest from config.json, or ModelShape's defaults."""
    vocab_size, dim = _matrix(tensors, "tok_embeddings.weight")
    intermediate_size, _ = _matrix(tensors, "layers.0.feed_forward.w1.weight")
    kv_width, _ = _matrix(tensors, "layers.0.attention.wk.weight")
    layers = {found[1] for name in tensors.shapes if (found := re.match(r"base\.layers\.(\d+)\.", name))}
    if strange := layers - {str(index) for index in range(len(layers))}:
        raise UserError(f"{tensors.where}: has a layer {min(strange)}, but {len(layers)} layers in all; one is missing")
    given = {key: getattr(said, key) for key in ("max_seq_len", "rope_theta", "tie_embeddings")}
    not_in_tensors = {key: value for key, value in given.items() if value is not None}
    try:
        config = ModelShape(
            vocab_size=vocab_size,
            dim=dim,
            n_layers=len(layers),
            n_heads=n_heads,
            n_kv_heads=kv_width * n_heads // dim,
            intermediate_size=intermediate_size,
            norm="deepnorm" if f"{BASE}layers.0.attention_norm.norm.weight" in tensors.shapes else "rmsnorm",
            **not_in_tensors,
        )
    except UserError as error:
        raise UserError(f"{tensors.where}: {error}") from error
    for key in CHECKED:
        if getattr(said, key) not in (None, getattr(config, key)):
            raise UserError(
                f"{tensors.where}: {key} is {getattr(config, key)}, the {CONFIG} beside it says {getattr(said, key)}; "
                "it belongs to another model, or weights are missing"
            )
    return config


def _matrix(tensors: Tensors, name: str) -> tuple[int, int]:
    shape = tensors.shapes.get(BASE + name)
    if shape is None or len(shape) != 2:
        raise UserError(
            f"{tensors.where}: {name} is "
            + ("missing" if shape is None else f"no matrix but {list(shape)}")
            + "; give the files of a whole model, unchanged"
        )
    return shape[0], shape[1]
