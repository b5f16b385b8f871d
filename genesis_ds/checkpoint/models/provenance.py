"""What is known of a model's training: its run, its text and what was measured of it, for the card of an export."""

import json
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genesis_ds import metrics
from genesis_ds.checkpoint.load.sources import CONFIG, RESTORE, own_section
from genesis_ds.checkpoint.save.manifest import MANIFEST, STATE_FILE, Manifest, StateFile
from genesis_ds.corpus.storage import CorpusManifest
from genesis_ds.data.token_set import TokenSetManifest
from genesis_ds.errors import UserError
from genesis_ds.segments import read_records
from genesis_ds.stored import parse_stored, read_stored
from genesis_ds.user_files import load_yaml

TRAINING = "training"
"""The key of an export's config.json that holds a Provenance."""
RUN_FILE = "config.yaml"
WEIGHTS = re.compile(r"step-(\d+)\.safetensors")
BITS_PER_BYTE = re.compile(rf"val/(?P<split>[^/]+)/(?P<language>[^/]+)/{metrics.BITS_PER_BYTE}")
FOLDERS = re.compile(r"(?<![\w.:/])(?:~|\.\.)?/(?:[^\s/]+/)+")
"""The folders of a path that is not below the working directory, wherever it stands in a text."""
T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """A corpus that a model was trained on."""

    fingerprint: str
    """sha256 over its verses and cross-references."""
    languages: list[str]
    licences: dict[str, str] = field(default_factory=dict)
    """Translation -> its licence; none where the corpus is not there any more, or another."""
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Provenance:
    """What is known of a model's training. No path of the machine that trained it is in it."""

    run: dict[str, Any]
    """The resolved run, as plain data."""
    global_step: int
    data: str | None = None
    """The fingerprint of the compiled text, or the first 16 digits of it."""
    text: Text | None = None
    epochs: float | None = None
    measured_at: int | None = None
    """The step of what follows."""
    bits_per_byte: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split -> language -> value."""
    extracted: dict[str, float] = field(default_factory=dict)
    """Language -> which share of the training verses asked for it gives back word for word."""


def read_run(path: Path) -> dict[str, Any]:
    """Return the run that has trained the model at a path, as plain data; nothing where that is not known."""
    if path.is_file() and WEIGHTS.fullmatch(path.name):
        return load_yaml(_run_of_weights(path) / RUN_FILE).values
    if (path / MANIFEST).exists():
        return Manifest.read(path).config
    own = own_section(path) if (path / CONFIG).exists() else None
    run: dict[str, Any] = (own or {}).get(TRAINING, {}).get("run", {})
    return run


def _run_of_weights(file: Path) -> Path:
    return Path(os.path.realpath(file)).parents[2]


def read_provenance(path: Path, *, average: bool = False) -> Provenance | None:
    """Return what is known of the training of the model at a path that `sources.open_model` has read.

    Token sets and corpora are looked for where the run has them, from the working directory. None is returned for a
    model of another program. average: of a checkpoint, what was measured of the average of its weights, and that alone.
    """
    if path.is_file() and (step := WEIGHTS.fullmatch(path.name)):
        run = _run_of_weights(path)
        return _of_run(run, load_yaml(run / RUN_FILE).values, int(step[1]), _compiled_by(run))
    if (path / MANIFEST).exists():
        manifest = Manifest.read(path)
        data = read_stored(path / STATE_FILE, StateFile, RESTORE).identity.get("data (fingerprint)")
        run = Path(os.path.realpath(path)).parents[1]
        suffix = metrics.AVERAGED if average else ""
        return _of_run(run, manifest.config, manifest.global_step, data, suffix=suffix)
    if (path / CONFIG).exists() and (own := own_section(path)) and (known := own.get(TRAINING)):
        return parse_stored(json.dumps(known), Provenance, f"{path / CONFIG}: {TRAINING}", RESTORE)
    return None


def _of_run(run: Path, config: dict[str, Any], step: int, data: str | None, *, suffix: str = "") -> Provenance:
    """Return what is known at a step of a run. suffix: of the names of what was measured."""
    latest: dict[str, Any] = {}
    measured_at = None
    for record in read_records(run / "metrics.jsonl"):
        if record["global_step"] <= step:
            latest |= record
            of_weights = [name.removesuffix(suffix) for name in record if name.endswith(suffix)]
            measured_at = record["global_step"] if any(map(BITS_PER_BYTE.fullmatch, of_weights)) else measured_at
    bits: dict[str, dict[str, float]] = {}
    extracted: dict[str, float] = {}
    numbers = {name: value for name, value in latest.items() if isinstance(value, int | float) and math.isfinite(value)}
    measured = {name.removesuffix(suffix): value for name, value in numbers.items() if name.endswith(suffix)}
    for name, value in measured.items():
        if found := BITS_PER_BYTE.fullmatch(name):
            bits.setdefault(found["split"], {})[found["language"]] = value
        if found := metrics.EXTRACTED_OF.fullmatch(name):
            extracted[found["language"]] = value
    return Provenance(
        run=_without_folders(config),
        global_step=step,
        data=data,
        text=_text(config, data),
        epochs=numbers.get(metrics.EPOCH),
        measured_at=measured_at,
        bits_per_byte=bits,
        extracted=extracted,
    )


def _compiled_by(run: Path) -> str | None:
    """Return the fingerprint of the token set with which a run was last started."""
    path = run / "provenance.jsonl"
    for line in reversed(path.read_bytes().splitlines() if path.is_file() else []):
        with suppress(UserError):
            started = parse_stored(line, dict[str, Any], path, "")
            found: str | None = started.get("fingerprints", {}).get("token_set")  # a run of arithmetic has none
            return found
    return None


def _text(config: dict[str, Any], data: str | None) -> Text | None:
    if data is None:
        return None
    compiled = _found(Path(config["data"]["token_sets"]) / data[:16] / MANIFEST, TokenSetManifest)
    if compiled is None:
        return None
    corpus = _found(Path(config["data"]["corpus"]) / MANIFEST, CorpusManifest)
    if corpus is None or corpus.fingerprint != compiled.corpus:
        return Text(compiled.corpus, compiled.languages)
    sources = [source for source in corpus.sources if {source.name, source.language} & {*compiled.languages}]
    return Text(
        compiled.corpus,
        compiled.languages,
        {source.name: _without_folders(source.licence) for source in sources},
        _without_folders([notice for source in sources for notice in source.notices]),
    )


def _found(path: Path, kind: type[T]) -> T | None:
    """Return the content of a stored file; None where it is not there, or is of another version."""
    with suppress(UserError):
        return read_stored(path, kind, "")
    return None


def _without_folders(value: Any) -> Any:
    """Return plain data in which a path of the machine is the name of its file alone."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str):
        return Path(value).name if os.path.isabs(value) else FOLDERS.sub("", value)
    return value
