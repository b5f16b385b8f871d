"""A trained model as one directory: weights in safetensors and a config.json, for genesis_ds or for transformers.

It is made on the CPU without an engine, a shard of the output at a time.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from genesis_ds.checkpoint.load.sources import CONFIG, FORMAT, FORMAT_VERSION, TOKENIZER, open_model, read_checkpoint
from genesis_ds.checkpoint.models import hf
from genesis_ds.checkpoint.models.model_card import card
from genesis_ds.checkpoint.models.provenance import TRAINING, Provenance, read_provenance
from genesis_ds.checkpoint.models.stored_model import BASE, StoredModel, Tensors
from genesis_ds.checkpoint.models.tokenizer_files import write_tokenizer
from genesis_ds.checkpoint.save.directory import checkpoints_in
from genesis_ds.checkpoint.save.manifest import MANIFEST
from genesis_ds.disk import replacing
from genesis_ds.errors import UserError
from genesis_ds.stored import WRITTEN_BY, program

Target = Literal["safetensors", "hf"]
Dtype = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARD_BYTES = 5 * 10**9
"""The most bytes of weights in one file, where one weight alone does not have more."""
CARD = "README.md"


def export(
    checkpoint: Path,
    output: Path,
    to: Target,
    dtype: Dtype = "fp32",
    *,
    shard_bytes: int = SHARD_BYTES,
    average: bool = False,
    trust: bool = False,
) -> list[str]:
    """Write the model of a checkpoint into a new directory, as `write_export` does.

    checkpoint: of training, or a file of weights alone, or anything else that `sources.open_model` reads. average: as
    in read_checkpoint. trust: as in safe_load.
    """
    if (checkpoint / MANIFEST).exists():
        model = read_checkpoint(checkpoint, trust, average=average)
    else:
        model = open_model(checkpoint, trust=trust)
        if average:
            raise UserError(f"{checkpoint}: has no average of the weights beside them; give a run or its checkpoint")
    known = read_provenance(checkpoint, average=average)
    return write_export(model, known, output, to=to, dtype=dtype, shard_bytes=shard_bytes)


def write_export(
    model: StoredModel,
    known: Provenance | None,
    output: Path,
    *,
    to: Target,
    dtype: Dtype = "fp32",
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Write a model into a new directory; return what the user should know of it, a line each.

    known: of its training. Raises UserError where the output exists, where the tokenizer is not at hand, and for a
    user's own model that is to be hf.
    """
    if output.exists() or output.is_symlink():
        raise UserError(f"{output}: exists already; remove it, or choose another output")
    for directory in (output.absolute(), *output.absolute().parents):
        if checkpoints_in(directory) or (directory / MANIFEST).exists():
            raise UserError(f"{output}: {directory} holds checkpoints, and them alone; choose another output")
    model.tokenizer()  # is at hand
    own = _own_config(model, known, to=to, dtype=dtype)
    files = {CARD: card(model, known, to)}
    if to == "hf":
        config, tensors = hf.config(model, DTYPES[dtype]) | {FORMAT: own}, hf.tensors(model)
        files["generation_config.json"] = _json(hf.special_ids(model))
        if not hf.is_llama(model.config):
            files[hf.CODE.name] = hf.CODE.read_text(encoding="utf-8")
    else:
        config = own
        tensors = model.tensors.renamed({name.removeprefix(BASE): name for name in model.names})
    files[CONFIG] = _json(config)
    with replacing(output) as whole:
        whole.mkdir()
        for name, content in files.items():
            (whole / name).write_text(content, encoding="utf-8")
        if "tokenizer" in model.about:
            write_tokenizer(whole, model.about["tokenizer"].get("path"), longest=model.config.max_seq_len)
        _write_weights(whole, tensors, DTYPES[dtype], shard_bytes)
    return _notices(model, known, to)


def _own_config(model: StoredModel, known: Provenance | None, *, to: Target, dtype: Dtype) -> dict[str, Any]:
    """Return what an export says to genesis_ds."""
    shape = dataclasses.asdict(model.config)
    own = {"extensions": {"model": model.own}} if model.own else {}
    if not own:
        del shape["options"]
    about = dict(model.about)
    if about.get("tokenizer", {}).get("path"):
        about["tokenizer"] = about["tokenizer"] | {"path": TOKENIZER}
    return {
        WRITTEN_BY: program(),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": to,
        "model": shape,
        "heads": [] if to == "hf" else model.tasks,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
        **own,
        **about,
        **({TRAINING: dataclasses.asdict(known)} if known else {}),
    }


def _notices(model: StoredModel, known: Provenance | None, to: Target) -> list[str]:
    notices = list(model.notices)
    if to == "hf" and model.tasks:
        notices.append(f"left out: the heads of {', '.join(model.tasks)}, which transformers' models do not have")
    if known and known.data and not (known.text and known.text.licences):
        notices.append(
            f"{CARD} does not say the licences of the text: data.token_sets and data.corpus of the run are not here as "
            "they were; give this command in the folder that the run was started in, or add the licences by hand"
        )
    return notices


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _write_weights(directory: Path, tensors: Tensors, dtype: torch.dtype, shard_bytes: int) -> None:
    shards: list[list[str]] = []
    bytes_left = 0
    for name, shape in tensors.shapes.items():
        nbytes = shape.numel() * dtype.itemsize
        if nbytes > bytes_left or not shards:
            shards.append([])
            bytes_left = shard_bytes
        shards[-1].append(name)
        bytes_left -= nbytes
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        weights = _apart({name: tensors.read(name).to(dtype).contiguous() for name in shard})
        save_file(weights, directory / file, metadata={"format": "pt"})
        del weights  # before the next are read
        files |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(shape.numel() for shape in tensors.shapes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _apart(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights, each in a storage of its own, as safetensors asks for."""
    storages: set[int] = set()
    for name, weight in weights.items():
        if (storage := weight.untyped_storage().data_ptr()) in storages:
            weights[name] = weight.clone()
        storages.add(storage)
    return weights
