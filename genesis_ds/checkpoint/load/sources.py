"""Where a model can be read from: a checkpoint of training or of the earlier code, a file of weights, an export."""

import json
import os
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.models import hf
from genesis_ds.checkpoint.models.legacy import STEP_FILES, read_legacy
from genesis_ds.checkpoint.models.stored_model import (
    BASE,
    HEADS,
    StoredModel,
    Tensors,
    model_config,
    own_model,
    safetensors_in,
)
from genesis_ds.checkpoint.save.manifest import MANIFEST, STATE_FILE, Manifest, StateFile
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import WEIGHT_AVERAGE
from genesis_ds.stored import WRITTEN_BY, OtherVersion, parse_stored, program, read_stored
from genesis_ds.user_files import load_yaml

CONFIG, TOKENIZER = "config.json", "tokenizer.model"
FORMAT, FORMAT_VERSION = "genesis_ds", 2
"""What the config.json of an export says it is; in one for transformers it stands in the section of that name. In
version 1 the tokenizer's path is the training machine's, in version 2 the tokenizer lies in the export."""
RESTORE = "restore it, or use another one"
SEQ_LEN = "seq_len"
"""In what is known about a model: the tokens of a window that it was trained on."""
AVERAGE = "weight_average"
"""In what is known about a model: of which kind the average of the weights is, ema or swa, where it is one."""


def open_model(path: Path, n_heads: int | None = None, trust: bool = False) -> StoredModel:
    """Return the model at a path, whichever of them it is. n_heads, trust: as in read_legacy."""
    if path.is_file() and path.suffix == ".safetensors":
        return read_weights(path)
    if path.is_file() and path.suffix in STEP_FILES:
        return read_legacy(path, n_heads, trust)
    if not path.is_dir():
        wrong = "not a file of weights (.safetensors, or .pt)" if path.exists() else "no such file or directory"
        raise UserError(f"{path}: {wrong}; give a checkpoint, an export or a file of weights")
    if (path / MANIFEST).exists():
        return read_checkpoint(path, trust)
    if (path / CONFIG).exists() and (said := own_section(path)) is not None:
        return read_export(path, said)
    if (path / CONFIG).exists() and "model_type" in read_stored(path / CONFIG, dict[str, Any], RESTORE):
        raise UserError(f"{path}: a model of another program; give a run, a checkpoint or an export of genesis_ds")
    if files := sorted(path.glob("step-*.safetensors")):
        raise UserError(f"{path}: a directory of files of weights; give one of them, such as {files[-1]}")
    return read_legacy(path, n_heads, trust)


def read_checkpoint(directory: Path, trust: bool = False, *, average: bool = False) -> StoredModel:
    """Return the model of a training checkpoint of any ZeRO stage and number of ranks, with fp32 master weights.

    average: with their average in their place. Raises UserError where the run keeps none, or has not begun it.
    """
    manifest = Manifest.read(directory)
    files = ZeroFiles(directory, trust)
    fingerprint = read_stored(directory / STATE_FILE, StateFile, RESTORE).identity.get("tokenizer (fingerprint)")
    about = _about(manifest.config) | {"global_step": manifest.global_step}
    if "tokenizer" in about and fingerprint:
        about["tokenizer"]["fingerprint"] = fingerprint
    shapes = {name: files.shapes[name] for name in files.names}
    if average and not any(WEIGHT_AVERAGE in files.state_keys(name) for name in files.names):
        raise UserError(
            f"{directory}: has no average of its weights; give one of a run with optimizer.weight_average, "
            "saved after its start, or export the weights as they are"
        )
    if average:
        about[AVERAGE] = manifest.config["optimizer"]["weight_average"]["kind"]
    return StoredModel(
        model_config(manifest.config, directory / MANIFEST),
        Tensors(directory, shapes, files.average if average else files.weight),
        about,
        own_model(manifest.config, directory / MANIFEST),
    )


def read_weights(file: Path) -> StoredModel:
    """Return the model of a file in runs/NAME/checkpoints/weights; its shape is in the run's config.yaml."""
    run_file = Path(os.path.realpath(file)).parent.parent.parent / "config.yaml"
    if not run_file.is_file() and (file.parent / CONFIG).exists():
        raise UserError(f"{file}: a file of a directory with a {CONFIG}; give {file.parent}")
    if not run_file.is_file():
        raise UserError(
            f"{file}: a file of weights alone needs its run's {run_file}; export it where the run has put it"
        )
    run = load_yaml(run_file, remedy="restore it").values
    tensors = safetensors_in(file, [file])
    return StoredModel(model_config(run, run_file), tensors, _about(run), own_model(run, run_file))


def read_export(directory: Path, config: dict[str, Any]) -> StoredModel:
    """Return the model that `export` has written, for genesis_ds or for transformers.

    config: what its config.json says to genesis_ds.
    """
    where = directory / CONFIG
    if (version := config.get("format_version")) not in (1, FORMAT_VERSION):
        raise OtherVersion(
            f"{where}: format {version}, written by {config.get(WRITTEN_BY, 'an unknown version')}; this program, "
            f"{program()}, reads 1 and {FORMAT_VERSION}; use the version that wrote it"
        )
    shape = model_config(config, where)
    tensors = safetensors_in(directory, sorted(directory.glob("model*.safetensors")))
    if config.get("target") == "hf":
        tensors = hf.own_tensors(tensors, shape)
    else:
        tensors = tensors.renamed({name if name.startswith(HEADS) else BASE + name: name for name in tensors.shapes})
    about: dict[str, Any] = {key: config[key] for key in ("global_step", SEQ_LEN, AVERAGE) if key in config}
    if "tokenizer" in config:
        said = json.dumps(config["tokenizer"])
        about["tokenizer"] = parse_stored(said, dict[str, str | None], f"{where}: tokenizer", RESTORE)
        if version == FORMAT_VERSION and about["tokenizer"].get("path"):
            about["tokenizer"]["path"] = str(directory.absolute() / TOKENIZER)
    return StoredModel(shape, tensors, about, own_model(config, where))


def own_section(directory: Path) -> dict[str, Any] | None:
    """Return what the config.json of an export says to genesis_ds; None where it is another program's."""
    config = read_stored(directory / CONFIG, dict[str, Any], RESTORE)
    section = config if config.get("format") == FORMAT else config.get(FORMAT)
    return section if isinstance(section, dict) else None


def _about(run: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer and the windows of a run of text as plain data; nothing for a run of arithmetic."""
    of_text = "tokenizer" in run and not run.get("arithmetic", {}).get("modulus")
    return {"tokenizer": dict(run["tokenizer"]), SEQ_LEN: run.get("batch", {}).get("seq_len")} if of_text else {}
