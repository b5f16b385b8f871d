"""Checkpoints of the earlier Genesis Arbiter code.

A file step_N.pt, as its newest trainer writes it, with the shape in a `config` of its own; or a directory with
model.safetensors, or training_state.pt with a `model_state_dict`, and perhaps a config.json. Where both files are there
model.safetensors is read and the pickle is not opened. Names are those of a decoder, or of one inside a multi-task
wrapper: then they begin with `base.`, and what is beside it are the wrapper's heads, but for an `lm_head` of the
output's shape, which is the output.
"""

import json
import re
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from genesis_ds.checkpoint.load.safe_load import safe_load
from genesis_ds.checkpoint.models.stored_model import BASE, HEADS, StoredModel, Tensors, safetensors_in
from genesis_ds.config import ModelShape
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer
from genesis_ds.stored import parse_stored, read_stored
from genesis_ds.tokenizer.bytes import ByteTokenizer

WEIGHTS, PICKLE, CONFIG = "model.safetensors", "training_state.pt", "config.json"
STEP_FILES = (".pt", ".pth")
"""How the name of a file that torch.save has written ends."""
STATE_DICT, SAID, STEP = "model_state_dict", "config", "step"
"""What is taken of such a file: the weights, the shape and the step."""
EMBEDDING, OUTPUT, LM_HEAD = "tok_embeddings.weight", "output.weight", "lm_head.weight"

REMEDY = "mend it or remove it"


@dataclass(frozen=True)
class LegacyConfig:
    """The shape as the earlier code says it, in a config.json or a step file; other keys are not read."""

    n_heads: int | None = None
    max_seq_len: int | None = None
    rope_theta: float | None = None
    tie_embeddings: bool | None = None
    norm_type: str | None = None
    vocab_size: int | None = None
    dim: int | None = None
    n_layers: int | None = None
    intermediate_size: int | None = None
    n_kv_heads: int | None = None


CHECKED = ("vocab_size", "dim", "n_layers", "intermediate_size", "n_kv_heads")
"""Sizes that it may say besides; the tensors decide, and a contradiction is an error."""


@dataclass(frozen=True)
class LegacyFile:
    """What is in the files of a checkpoint, under their own names."""

    tensors: Tensors
    said: LegacyConfig
    said_in: str
    """Where the shape is said, for messages."""
    step: int | None = None
    others: list[str] = field(default_factory=list)
    """What a pickle holds besides, by name."""


def load_model(path: str | Path, n_heads: int | None = None, trust: bool = False) -> Transformer:
    """Return the decoder of such a checkpoint, in fp32 on the CPU, in evaluation mode. Heads are left out.

    n_heads: where the checkpoint does not say it. trust: read a pickle that holds other classes than tensors' and
    plain data, whose code then runs. Raises UserError for a tensor that is missing, left over or of a wrong shape.
    """
    model = read_legacy(Path(path), n_heads, trust)
    if n_heads not in (None, found := model.config.n_heads):
        said_in = Path(path) / CONFIG if Path(path).is_dir() else path
        raise UserError(f"{said_in}: n_heads is {found}, not {n_heads}; give the one that is right")
    return model.decoder()


def read_legacy(path: Path, n_heads: int | None = None, trust: bool = False) -> StoredModel:
    """Return the model of such a checkpoint with its heads, its weights still in the files.

    n_heads, trust: as in load_model, but what the checkpoint says decides against n_heads.
    """
    return model_of(open_legacy(path, trust), n_heads)


def model_of(file: LegacyFile, n_heads: int | None = None) -> StoredModel:
    """Return the model in the files of a checkpoint. n_heads: as in read_legacy."""
    names, tied, notices = _names(file)
    tensors = file.tensors.renamed(names)
    n_heads = file.said.n_heads or n_heads
    if n_heads is None:
        where, put = file.tensors.where, f", or put a {CONFIG} that says it beside the file"
        newest = newest_step_file(where.parent) if where.name in (WEIGHTS, PICKLE) else None
        raise UserError(
            f"{where}: the number of heads is in no tensor; give n_heads (checkpoint import --n_heads N)"
            + (put if where.name == WEIGHTS else "")
            + (f", or {newest}, which says it itself" if newest else "")
        )
    shape = _shape(tensors, n_heads, file, tied)
    about: dict[str, Any] = {} if file.step is None else {"global_step": file.step}
    if shape.vocab_size == ByteTokenizer.vocab_size:
        about["tokenizer"] = {"kind": "bytes", "path": None, "fingerprint": ByteTokenizer.fingerprint[:16]}
    if file.others:
        notices.append(f"not taken: {', '.join(file.others)}")
    return StoredModel(shape, tensors, about, notices=notices)


def open_legacy(path: Path, trust: bool = False) -> LegacyFile:
    """Return the content of a step file, or of a directory. Raises UserError where no model is there."""
    if not path.is_dir():
        return _opened_pickle(path, trust, None)
    config = read_stored(path / CONFIG, LegacyConfig, REMEDY) if (path / CONFIG).exists() else None
    if (weights := path / WEIGHTS).is_file():
        return LegacyFile(
            _uncompiled(safetensors_in(weights, [weights])), config or LegacyConfig(), f"the {CONFIG} beside it"
        )
    if (pickle := path / PICKLE).is_file():
        return _opened_pickle(pickle, trust, config)
    newest = newest_step_file(path)
    remedy = f"such as {newest}" if newest else f"or a directory with {WEIGHTS} or {PICKLE}"
    raise UserError(f"{path}: no model is there; give a file step_N.pt, {remedy}")


def newest_step_file(path: Path) -> Path | None:
    """Return the file step_N.pt of the highest N in a directory."""
    steps = [found for found in path.iterdir() if re.fullmatch(r"step_\d+", found.stem) and found.suffix in STEP_FILES]
    return max(steps, key=lambda found: int(found.stem[len("step_") :]), default=None)


def _opened_pickle(path: Path, trust: bool, config: LegacyConfig | None) -> LegacyFile:
    """config: of the config.json beside it, which decides where there is one."""
    state = safe_load(path, mmap=zipfile.is_zipfile(path), trust=trust)
    weights = state.get(STATE_DICT) if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise UserError(f"{path}: holds no {STATE_DICT} of tensors; give a file as the earlier trainer wrote it")
    own = state.get(SAID)
    if config is None and isinstance(own, dict):
        of_shape = {key.name: own[key.name] for key in fields(LegacyConfig) if key.name in own}
        said = parse_stored(json.dumps(of_shape, default=str), LegacyConfig, f"{path}: {SAID}", REMEDY)
    else:
        said = config or LegacyConfig()
    step = state.get(STEP)
    shapes = {name: value.shape for name, value in weights.items()}
    return LegacyFile(
        # copies, as several names may share one tensor, and a file of safetensors has none that do
        _uncompiled(Tensors(path, shapes, lambda name: weights[name].to(torch.float32, copy=True))),
        said,
        f"the {CONFIG} beside it" if config else f"its own {SAID}",
        step if isinstance(step, int) else None,
        [str(name) for name in state if name not in (STATE_DICT, SAID, STEP)],
    )


def _uncompiled(tensors: Tensors) -> Tensors:
    """Return the tensors without what torch.compile puts before the names of a compiled module's."""
    return tensors.renamed({name.replace("_orig_mod.", ""): name for name in tensors.shapes})


def _names(file: LegacyFile) -> tuple[dict[str, str], bool, list[str]]:
    """Return our name of each tensor -> the file's, whether the output is the embedding, and what is to be said of it.

    The output is lm_head where there is one of its shape, as a wrapper's logits come of that.
    """
    there = file.tensors.shapes
    prefix = BASE if any(name.startswith(BASE) for name in there) else ""
    embedding, of_decoder = prefix + EMBEDDING, prefix + OUTPUT
    output = LM_HEAD if LM_HEAD in there and there[LM_HEAD] == there.get(embedding) else of_decoder
    names = {_our_name(name, prefix): name for name in there if name not in (output, of_decoder)}
    notices = [f"{LM_HEAD} is the output"] if output == LM_HEAD else []
    if output != of_decoder and of_decoder in there and not _equal(file.tensors, output, of_decoder):
        notices.append(f"not taken: {of_decoder}, which differs from {output}, the output")
    said = file.said.tie_embeddings
    if output not in there:
        return names, bool(said), notices
    equal = _equal(file.tensors, embedding, output)
    if said and not equal:
        raise UserError(
            f"{file.tensors.where}: {output} differs from {embedding}, but {file.said_in} says tie_embeddings; "
            "it belongs to another model"
        )
    if equal and said is not False:
        return names, True, [*notices, f"tied: {output} is {embedding}"]
    return names | {BASE + OUTPUT: output}, False, notices


def _our_name(name: str, prefix: str) -> str:
    if name.startswith(HEADS) or (prefix and name.startswith(prefix)):
        return name
    return f"{HEADS if prefix else BASE}{name}"


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    return tensors.shapes.get(one) == tensors.shapes[other] and torch.equal(tensors.read(one), tensors.read(other))


def _shape(tensors: Tensors, n_heads: int, file: LegacyFile, tied: bool) -> ModelShape:
    """Return the model's shape: sizes from the tensors; the rest as it is said, or ModelShape's defaults."""
    vocab_size, dim = _matrix(tensors, EMBEDDING)
    intermediate_size, _ = _matrix(tensors, "layers.0.feed_forward.w1.weight")
    kv_width, _ = _matrix(tensors, "layers.0.attention.wk.weight")
    layers = {found[1] for name in tensors.shapes if (found := re.match(r"base\.layers\.(\d+)\.", name))}
    if strange := layers - {str(index) for index in range(len(layers))}:
        raise UserError(f"{tensors.where}: has a layer {min(strange)}, but {len(layers)} layers in all; one is missing")
    given = {key: getattr(file.said, key) for key in ("max_seq_len", "rope_theta")}
    try:
        config = ModelShape(
            vocab_size=vocab_size,
            dim=dim,
            n_layers=len(layers),
            n_heads=n_heads,
            n_kv_heads=kv_width * n_heads // dim,
            intermediate_size=intermediate_size,
            norm="deepnorm" if f"{BASE}layers.0.attention_norm.norm.weight" in tensors.shapes else "rmsnorm",
            tie_embeddings=tied,
            **{key: value for key, value in given.items() if value is not None},
        )
    except UserError as error:
        raise UserError(f"{tensors.where}: {error}") from error
    _require_as_said(config, file)
    return config


def _require_as_said(config: ModelShape, file: LegacyFile) -> None:
    said = {key: getattr(file.said, key) for key in CHECKED} | {"norm_type": file.said.norm_type}
    for key, value in said.items():
        found = config.norm if key == "norm_type" else getattr(config, key)
        if value not in (None, found):
            raise UserError(
                f"{file.tensors.where}: {key} is {found}, {file.said_in} says {value}; it belongs to another model, or "
                "weights are missing"
            )


def _matrix(tensors: Tensors, name: str) -> tuple[int, int]:
    shape = tensors.shapes.get(BASE + name)
    if shape is None or len(shape) != 2:
        raise UserError(
            f"{tensors.where}: {name} is "
            + ("missing" if shape is None else f"no matrix but {list(shape)}")
            + "; give the files of a whole model, unchanged"
        )
    return shape[0], shape[1]
