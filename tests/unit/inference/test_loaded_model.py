import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.stored_runs import keep_average
from torch.nn import functional as F

import genesis_ds
from genesis_ds.checkpoint.load.find import find_model
from genesis_ds.checkpoint.models.export import export
from genesis_ds.checkpoint.save.manifest import Manifest
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.data.aligned_verses import ParallelVerses
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.hooks.evaluate.model_calls import ModelCalls, VerseStates
from genesis_ds.model.multitask import MultiTaskModel
from genesis_ds.tokenizer import load_tokenizer

ARITHMETIC = Path(__file__).parents[2] / "data/before_rebuild/arithmetic"
TEXTS = ["In the beginning", "태초에 하나님이", "a", "God created the heaven"]


def test_the_package_alone_loads_nothing_heavy():
    code = "import genesis_ds, sys; genesis_ds.__version__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        genesis_ds.laod  # noqa: B018


def test_an_export_and_a_run_know_the_windows_of_their_training(exported, run_directory):
    assert (genesis_ds.load(exported).context, genesis_ds.load(run_directory).context) == (32, 64)
    assert genesis_ds.load(run_directory).name == "text@6"


def test_an_average_of_the_weights_is_called_so(run_directory, tmp_path):
    checkpoint = shutil.copytree(run_directory, tmp_path / "run") / "checkpoints/step-00000006"
    keep_average(checkpoint, "ema")
    export(checkpoint, tmp_path / "lw", "safetensors", average=True)
    assert genesis_ds.load(tmp_path / "lw").name == "lw@6 average"


def test_a_score_is_the_log_probability_of_a_text_after_the_beginning_of_one(loaded):
    (score, _) = loaded.score(["태초에", "other"])
    ids = torch.tensor([[2, *loaded.tokenizer.encode("태초에")]])
    with torch.inference_mode():
        nats = F.cross_entropy(loaded.model(ids)[0, :-1], ids[0, 1:], reduction="none")
    assert score.log_probability == pytest.approx(-float(nats.sum()), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(float(nats.sum()) / np.log(2) / 9, rel=1e-5)
    assert score.perplexity == pytest.approx(float(nats.mean().exp()), rel=1e-5)


def test_vectors_are_those_of_the_representation_probe(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("genesis_ds.hooks.evaluate.model_calls.add_over_ranks", lambda tensor: None)
    rows = {1001001 + number: (text, 0) for number, text in enumerate(TEXTS)}
    corpus = Corpus((Translation.from_rows("xx", "xx", rows),))
    split = split_verses(corpus, chapter_fraction=0)
    table = VerseTable(compile_token_set(corpus, [], load_tokenizer("bytes"), split, tmp_path), ["train"], 32)
    model = MultiTaskModel(loaded.model, {}).eval()
    calls = ModelCalls(lambda task, **inputs: model(task, **inputs).output, Ranks(0, 0, 1), torch.device("cpu"))
    states = VerseStates(calls, torch.inference_mode, n_layers=3, seq_len=32, rows=2)
    indices = table.find(0, np.array(list(rows)))[None]
    expected = states(ParallelVerses(table, ["xx"], indices, np.zeros(len(TEXTS), np.int64)))
    for depth, of_depth in zip(states.depths, expected, strict=True):
        np.testing.assert_allclose(loaded.encode(TEXTS, layer=depth), of_depth[0], atol=1e-5)
    np.testing.assert_array_equal(loaded.encode(TEXTS), loaded.encode(TEXTS, layer=3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.score(["a", ""]), "text 2: it is empty"),
        (lambda model: model.score("a"), "texts: give a list of texts"),
        (lambda model: model.encode(["a"], layer=4), "layer: 4 is not there; give 1 to 3"),
        (lambda model: model.encode(["a" * 65]), "text 1: 65 tokens, and the model takes 64"),
        (lambda model: model.score(["\udcff"]), "a text is not Unicode"),
    ],
)
def test_what_cannot_be_is_said(loaded, call, message):
    with pytest.raises(UserError, match=message):
        call(loaded)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_said(exported, device):
    with pytest.raises(UserError, match=f"device: {device}"):
        genesis_ds.load(exported, device=device)


@pytest.mark.parametrize("path", ["absent", "empty", "empty/file.txt"])
def test_a_path_without_a_model_is_a_mistake(tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/file.txt").write_text("no model")
    with pytest.raises(UserError, match=path):
        genesis_ds.load(tmp_path / path)


@pytest.fixture
def run_of_three(run_directory, tmp_path):
    """Checkpoints of steps 6, 8 and 9, the last for a hook; that of step 8 has the better value."""
    run = tmp_path / "run"
    shutil.copytree(run_directory, run)
    first = run / "checkpoints/step-00000006"
    for sequence, (name, value) in enumerate([("step-00000008", 1.0), ("step-00000009-grokking", 3.0)], 1):
        shutil.copytree(first, first.with_name(name))
        saved = Manifest.read(first)
        config = saved.config | {"checkpoint": saved.config["checkpoint"] | {"best_by": "loss"}}
        found = dataclasses.replace(saved, sequence=9 + sequence, best_by="loss", value=value, config=config)
        found.write(first.with_name(name))
    return run


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "step-00000009-grokking"),
        ("best", "step-00000008"),
        ("step-8", "step-00000008"),
        ("step-00000006", "step-00000006"),
        ("grokking", "step-00000009-grokking"),
        ("step-00000009-grokking", "step-00000009-grokking"),
    ],
)
def test_a_checkpoint_is_chosen_by_what_it_is_called(run_of_three, wanted, expected):
    assert find_model(run_of_three, wanted).name == expected


def test_a_damaged_checkpoint_is_passed_over_with_a_line_or_refused_where_it_is_named(run_of_three, capsys):
    newest = run_of_three / "checkpoints/step-00000009-grokking"
    (newest / "rng_0.pt").write_bytes(b"x")
    assert find_model(run_of_three, None).name == "step-00000008"
    assert "rng_0.pt: 1 bytes" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"rng_0\.pt: 1 bytes"):
        find_model(run_of_three, "grokking")
    with pytest.raises(UserError, match=r"rng_0\.pt: 1 bytes"):
        find_model(newest, None)


def test_a_checkpoint_that_is_not_there_is_a_mistake(run_of_three, run_directory, exported):
    with pytest.raises(UserError, match="has no 'step-7'; there are best, step-00000009-grokking, step-00000008"):
        find_model(run_of_three, "step-7")
    with pytest.raises(UserError, match=r"checkpoint: best, but none of .* has been judged"):
        find_model(run_directory, "best")
    with pytest.raises(UserError, match=r"checkpoint: best, but .* is no run"):
        find_model(exported, "best")


def test_another_tokenizer_than_that_of_training_is_refused(run_directory, monkeypatch):
    monkeypatch.setattr("genesis_ds.tokenizer.bytes.ByteTokenizer.fingerprint", "f" * 64)
    with pytest.raises(UserError, match=r"trained with the tokenizer .*, by which its ids mean other text"):
        genesis_ds.load(run_directory, tokenizer="bytes")


def test_a_model_without_a_tokenizer_says_so_when_it_is_needed():
    arithmetic = genesis_ds.load(ARITHMETIC)
    with pytest.raises(UserError, match=r"no tokenizer is with the model; .* give .*: --tokenizer bytes"):
        arithmetic.score(["a"])
    with pytest.raises(UserError, match="a model of 8 token ids, and the tokenizer has 260"):
        genesis_ds.load(ARITHMETIC, tokenizer="bytes")
