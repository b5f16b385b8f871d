"""The card says what is known of the model, and nothing of the machine."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.stored_runs import keep_average
from helpers.tiny_models import HEADS, LLAMA

from genesis_ds.checkpoint.command import export_model
from genesis_ds.checkpoint.models.export import export
from genesis_ds.checkpoint.models.provenance import read_provenance
from genesis_ds.checkpoint.save.manifest import Manifest
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.verses import Corpus, Source, Translation
from genesis_ds.training.session import train_arguments

RUN = Path(__file__).parents[2] / "data/before_rebuild/text"
LEGACY = Path(__file__).parents[2] / "data/legacy_deepnorm"
CHECKPOINT = RUN / "checkpoints/step-00000006"
DATA = "538bfdf4e2e15c56"
"""What the run's checkpoint says its compiled text is."""


def card_of(output):
    return (output / "README.md").read_text(encoding="utf-8")


def run_in(card):
    """The YAML of the run in a card."""
    return re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1]


@pytest.fixture
def trained_here(tmp_path, monkeypatch):
    """A run with its corpus and its compiled text, whose folder is the working directory."""
    run = shutil.copytree(RUN, tmp_path / "runs/text")
    texts = {"qaa": "x", "qab": "y"}
    corpus = Corpus(
        tuple(Translation.from_rows(f"{code}-own", code, {1001001: (text, 0)}) for code, text in texts.items()),
        sources=(
            Source("qaa-own", "qaa", "by /home/me/texts/permission.txt | only", "0" * 64, notices=("ask /srv/a/b",)),
            Source("qab-own", "qab", "public domain", "0" * 64),
        ),
    )
    save_corpus(corpus, tmp_path / "corpus")
    compiled = {"fingerprint": DATA + "0" * 48, "corpus": corpus.fingerprint, "languages": ["qaa", "qab"]}
    (tmp_path / "token_sets" / DATA).mkdir(parents=True)
    manifest = compiled | {"tokens": {}, "files": {}, "written_by": "", "format": 1}
    (tmp_path / "token_sets" / DATA / "manifest.json").write_text(json.dumps(manifest))
    checkpoint = run / "checkpoints" / CHECKPOINT.name
    with_corpus(checkpoint, "corpus")
    monkeypatch.chdir(tmp_path)
    return checkpoint, corpus


def with_corpus(checkpoint, corpus):
    """Let the run have its corpus at a path, and its compiled text in the working directory."""
    manifest = Manifest.read(checkpoint)
    data = manifest.config["data"] | {"corpus": corpus, "token_sets": "token_sets"}
    dataclasses.replace(manifest, config=manifest.config | {"data": data}).write(checkpoint)


def test_the_card_says_the_text_its_licences_and_what_was_measured(trained_here, tmp_path):
    checkpoint, corpus = trained_here
    record = {"global_step": 5, "train/epoch": 1234.5, "memorisation/qaa/extracted": 0.25}
    bits = {"val/val_chapter/qaa/bits_per_byte": 1.5, "val/val_book/qab/bits_per_byte": 2.25}
    later = {"global_step": 7, "val/val_chapter/qaa/bits_per_byte": 9.0}
    metrics = "".join(json.dumps(line) + "\n" for line in (record | bits, later))
    (checkpoint.parents[1] / "metrics.jsonl").write_text(metrics)
    assert export(checkpoint, tmp_path / "out", "hf") == [
        "left out: the heads of coherence, cross_reference, paraphrase, which transformers' models do not have"
    ]
    card = card_of(tmp_path / "out")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["language"], front["license"]) == ("transformers", ["qaa", "qab"], "other")
    assert "\n# text, step 6\n" in card
    assert "trust_remote_code=True" in card
    assert "rows of 64 tokens" in card
    assert "read it for 1,234.50 epochs" in card
    assert "may reproduce it, word for word" in card
    assert "wrote the rest exactly: qaa 25.0%" in card
    assert "| qaa-own | by permission.txt / only |\n| qab-own | public domain |" in card
    assert "\nask b\n" in card
    assert f"- corpus: `{corpus.fingerprint}`" in card
    assert f"`{DATA}`" in card
    assert "At step 5" in card
    assert "| bits per byte | qaa | qab |" in card
    assert re.search(r"\| val_chapter: .* \| 1\.5000 \|  \|\n\| val_book: .* \|  \| 2\.2500 \|", card)
    assert export(tmp_path / "out", tmp_path / "again", "safetensors") == []
    assert card_of(tmp_path / "again").partition("## Text")[2] == card.partition("## Text")[2]


def test_the_card_of_an_average_says_so_and_what_was_measured_of_it_alone(trained_here, tmp_path):
    checkpoint, _ = trained_here
    keep_average(checkpoint, "swa")
    weights = {"val/val_chapter/qaa/bits_per_byte": 1.5, "val/val_book/qab/bits_per_byte": 2.25}
    weights |= {"memorisation/qaa/extracted": 0.25, "train/epoch": 3.0}
    averaged = {"val/val_chapter/qaa/bits_per_byte/averaged": 1.25, "memorisation/qaa/extracted/averaged": 0.5}
    before = {"global_step": 3} | weights | averaged
    records = "".join(json.dumps(line) + "\n" for line in (before, {"global_step": 5} | weights))
    (checkpoint.parents[1] / "metrics.jsonl").write_text(records)
    export(checkpoint, tmp_path / "out", "safetensors", average=True)
    export(tmp_path / "out", tmp_path / "again", "hf")
    for output in (tmp_path / "out", tmp_path / "again"):
        card = card_of(output)
        assert "\n# text, step 6, average of the weights (swa)\n" in card
        assert "read it for 3.00 epochs" in card
        assert "wrote the rest exactly: qaa 50.0%" in card
        assert "At step 3" in card
        assert "| 1.2500 |" in card
        assert not re.search("1.5000|2.2500", card)
    export(checkpoint, tmp_path / "weights", "safetensors")
    assert "| 1.5000 |" in card_of(tmp_path / "weights")
    assert "average of" not in card_of(tmp_path / "weights")


def test_no_path_of_the_machine_is_in_any_file(tmp_path):
    for to in ("hf", "safetensors"):
        export(CHECKPOINT, tmp_path / to, to)
        for file in (tmp_path / to).iterdir():
            assert b"/tmp" not in file.read_bytes(), file
            assert b"/fx" not in file.read_bytes(), file


def test_the_run_in_a_card_trains_the_same_model_again(tmp_path):
    export(CHECKPOINT, tmp_path / "out", "hf")
    (tmp_path / "run.yaml").write_text(run_in(card_of(tmp_path / "out")))
    run = train_arguments(["--config", str(tmp_path / "run.yaml")]).run
    assert (run.name, run.output_dir, run.data.corpus) == ("text", "runs", "synthetic")
    assert (run.model.n_layers, run.model.dim, run.model.tie_embeddings) == (4, 16, True)
    assert (run.batch.seq_len, run.batch.global_batch_size) == (64, 8)


def test_what_is_not_known_is_said(trained, trained_here, tmp_path):
    checkpoint, _ = trained_here
    with_corpus(checkpoint, "another")
    (licences,) = export(checkpoint, tmp_path / "compiled", "safetensors")
    assert licences.startswith("README.md does not say the licences of the text: data.token_sets and data.corpus")
    assert "Languages: qaa, qab. Their licences are not known here." in card_of(tmp_path / "compiled")
    shutil.rmtree(tmp_path / "token_sets")
    assert export(checkpoint, tmp_path / "nothing", "safetensors") == [licences]
    assert "languages and licences are not known here" in card_of(tmp_path / "nothing")
    export(LEGACY, tmp_path / "old", "hf")
    assert read_provenance(LEGACY) is None
    assert "# A model\n" in card_of(tmp_path / "old")
    assert "## Run" not in card_of(tmp_path / "old")
    export(trained(LLAMA, HEADS)[1], tmp_path / "weights", "hf")
    assert "# quickstart, step 7\n" in card_of(tmp_path / "weights")
    assert "trust_remote_code" not in card_of(tmp_path / "weights")


@pytest.mark.parametrize("to", ["safetensors", "hf"])
def test_a_model_of_arithmetic_has_no_tokenizer_and_no_text(tmp_path, to):
    export(RUN.parent / "arithmetic/checkpoints/step-00000040", tmp_path / "out", to)
    assert not list((tmp_path / "out").glob("tokenizer*"))
    card = card_of(tmp_path / "out")
    assert "  modulus: 7\n" in run_in(card)
    assert not re.search("text|generate|AutoTokenizer", card)


def test_a_run_is_exported_by_its_directory(trained_here, tmp_path):
    checkpoint, _ = trained_here
    lines = export_model(str(checkpoint.parents[1]), str(tmp_path / "out"), "safetensors", "fp32")
    assert lines[0] == f"{checkpoint} -> {tmp_path / 'out'}"
    assert "genesis-ds generate PATH" in card_of(tmp_path / "out")
