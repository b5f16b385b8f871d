"""A trained model as one directory: weights in safetensors and a config.json, for genesis_ds or for transformers.

It is made on the CPU without an engine, a shard of the output at a time.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from genesis_ds.checkpoint.load.sources import CONFIG, FORMAT, FORMAT_VERSION, open_model, read_export
from genesis_ds.checkpoint.models import hf
from genesis_ds.checkpoint.models.stored_model import BASE, StoredModel, Tensors
from genesis_ds.checkpoint.save.directory import checkpoints_in
from genesis_ds.checkpoint.save.manifest import MANIFEST
from genesis_ds.disk import replacing
from genesis_ds.errors import UserError
from genesis_ds.model.transformer import Transformer
from genesis_ds.stored import WRITTEN_BY, program

Target = Literal["safetensors", "hf"]
Dtype = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARD_BYTES = 5 * 10**9
"""The most bytes of weights in one file, where one weight alone does not have more."""


def export(
    checkpoint: Path,
    output: Path,
    to: Target,
    dtype: Dtype = "fp32",
    *,
    shard_bytes: int = SHARD_BYTES,
    n_heads: int | None = None,
    trust: bool = False,
) -> list[str]:
    """Write the model of a checkpoint into a new directory; return what the user should know of it, a line each.

    checkpoint: of training, or a file of weights alone, or anything else that `sources.open_model` reads.
    n_heads: as in read_legacy. trust: as in safe_load.
    Raises UserError where the output exists, and for a DeepNorm or a user's own model that is to be hf.
    """
    if output.exists() or output.is_symlink():
        raise UserError(f"{output}: exists already; remove it, or choose another output")
    for directory in (output.absolute(), *output.absolute().parents):
        if checkpoints_in(directory) or (directory / MANIFEST).exists():
            raise UserError(f"{output}: {directory} holds checkpoints, and them alone; choose another output")
    model = open_model(checkpoint, n_heads, trust)
    notices = list(model.notices)
    if to == "hf":
        config, tensors = hf.config(model, DTYPES[dtype]), hf.tensors(model)
        if model.tasks:
            notices.append(f"left out: the heads of {', '.join(model.tasks)}, which a LlamaForCausalLM does not have")
    else:
        config = _own_config(model, dtype)
        tensors = model.tensors.renamed({name.removeprefix(BASE): name for name in model.names})
    with replacing(output) as whole:
        whole.mkdir()
        (whole / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write_weights(whole, tensors, DTYPES[dtype], shard_bytes)
    return notices


def load_model(directory: str | Path) -> Transformer:
    """Return the decoder of an export for genesis_ds, in fp32 on the CPU, in evaluation mode. Heads are left out.

    Raises UserError for a tensor that is missing, left over or of a wrong shape.
    """
    return read_export(Path(directory)).decoder()


def _own_config(model: StoredModel, dtype: Dtype) -> dict[str, Any]:
    shape = dataclasses.asdict(model.config)
    own = {"extensions": {"model": model.own}} if model.own else {}
    if not own:
        del shape["options"]
    return {
        WRITTEN_BY: program(),
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": shape,
        "heads": model.tasks,
        "dtype": dtype,
        **own,
        **model.about,
    }


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
        weights = {name: tensors.read(name).to(dtype).contiguous() for name in shard}
        save_file(weights, directory / file, metadata={"format": "pt"})
        del weights  # before the next are read
        files |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(shape.numel() for shape in tensors.shapes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
