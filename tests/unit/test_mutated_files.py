"""Whatever bytes a file holds, reading it gives what it says or one line on what is wrong, soon, and touches no other.

GENESIS_DS_EXAMPLES=10000 is the whole of it, an hour; by default it is a few hundred examples.
"""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.save.manifest import STATE_FILE, Manifest, StateFile, inspect
from genesis_ds.config import ModelConfig
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.corpus.concepts import read_topics
from genesis_ds.corpus.readers import import_path
from genesis_ds.corpus.readers.openbible import read_cross_references
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus, save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import compile_token_set, open_token_set
from genesis_ds.disk import hash_file
from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import parameters
from genesis_ds.report.curve_files import curves_of, read_csv
from genesis_ds.segments import read_numbered
from genesis_ds.stored import read_stored
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.tokenizer.recipe import load_recipe
from genesis_ds.tokenizer.sentencepiece import SentencePieceTokenizer, train_sentencepiece

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("GENESIS_DS_EXAMPLES", "500"))
PATIENCE = 20
"""Seconds after which a reader hangs."""
SHAPE = ModelConfig(n_layers=1, dim=8, n_heads=2, intermediate_size=8, vocab_size=16, max_seq_len=8)
VERSES = [f"Genesis 1:{number}" for number in range(1, 9)]


def table(separator):
    rows = [("book", "chapter", "verse", "text"), *(("GEN", "1", str(n), f"Text {n}.") for n in range(1, 9))]
    return "\n".join(separator.join(row) for row in rows) + "\n"


def model_states():
    """What DeepSpeed's ZeRO-0 saves of a model of two weights."""
    weights = {"base.norm.weight": torch.ones(8), "base.output.weight": torch.ones(16, 8)}
    adam = {"step": torch.tensor(3.0)}
    states = {
        n: adam | {key: torch.zeros_like(w) for key in ("exp_avg", "exp_avg_sq")}
        for n, w in enumerate(weights.values())
    }
    counters = {"lr_scheduler": {"last_epoch": 3}, "global_steps": 3, "global_samples": 24, "skipped_steps": 0}
    optimizer = {"param_groups": [{"parameters": list(weights)}], "state": states}
    return {"ds_config": {}, "dp_world_size": 1, "module": weights, "optimizer": optimizer, **counters}


def read_zero_files(path):
    files = ZeroFiles(path.parent)
    return [(files.weight(name), files.state(name)) for name in files.names]


def read_model(path):
    model = open_model(
        path if path.suffix == ".safetensors" and path.stem.startswith("step") else path.parent, n_heads=2
    )
    return [model.tensors.read(name) for name in model.names]


def texts(corpus):
    return [(translation.name, translation.texts) for translation in corpus.translations]


READERS = {
    "run.yaml": lambda path: parse_arguments(["--config", str(path)], OwnFlags(), "train", ""),
    "ds_config.json": load_ds_config,
    "recipe.yaml": load_recipe,
    "topics.tsv": lambda path: read_topics(path, [1_001_001, 1_001_002]),
    "links.txt": lambda path: read_cross_references(path, [1_001_001, 1_001_002, 1_001_003]),
    "texts.txt": lambda path: texts(import_path(path, language="en")),
    "texts.tsv": lambda path: texts(import_path(path, language="en")),
    "texts.csv": lambda path: texts(import_path(path, language="en")),
    "texts.jsonl": lambda path: texts(import_path(path, language="en")),
    "vref/vref.txt": lambda path: texts(import_path(path.parent)),
    "vref/en-x.txt": lambda path: texts(import_path(path.parent)),
    "corpus/manifest.json": lambda path: texts(load_corpus(path.parent)),
    "corpus/verses/qaa.tsv": lambda path: texts(load_corpus(path.parents[1])),
    "corpus/cross_references.tsv": lambda path: texts(load_corpus(path.parent)),
    "token_set/manifest.json": lambda path: open_token_set(path.parent),
    "token_set/qaa.train.tokens.npy": lambda path: open_token_set(path.parent),
    "tokenizer.model": SentencePieceTokenizer.load,
    "step-00000003/manifest.json": lambda path: inspect(path.parent),
    "step-00000003/training_state.json": lambda path: read_stored(path, StateFile, ""),
    "states/mp_rank_00_model_states.pt": read_zero_files,
    "export/config.json": read_model,
    "export/model.safetensors": read_model,
    "legacy/config.json": read_model,
    "legacy/training_state.pt": read_model,
    "checkpoints/weights/step-00000003.safetensors": read_model,
    "config.yaml": lambda path: read_model(path.parent / "checkpoints/weights/step-00000003.safetensors"),
    "metrics.jsonl": lambda path: curves_of(read_numbered(path)),
    "curves.csv": read_csv,
}


def write_texts(folder):
    """What people write or bring."""
    shutil.copy(ROOT / "launch/runs/quickstart.yaml", folder / "run.yaml")
    shutil.copy(ROOT / "ds_configs/zero3_offload.json", folder / "ds_config.json")
    shutil.copy(ROOT / "tokenizers/bpe_8k.yaml", folder / "recipe.yaml")
    (folder / "topics.tsv").write_text("creation\tGenesis 1:1\nlight\tGenesis 1:2\n")
    (folder / "links.txt").write_text("From Verse\tTo Verse\tVotes\nGen.1.1\tGen.1.2-Gen.1.3\t12\n")
    (folder / "texts.txt").write_text("".join(f"{verse} Text {verse[8:]} 태초에.\n" for verse in VERSES))
    (folder / "texts.tsv").write_text(table("\t"))
    (folder / "texts.csv").write_text(table(","))
    rows = [{"book": "GEN", "chapter": 1, "verse": number, "text": f"Text {number}."} for number in range(1, 9)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "vref").mkdir()
    (folder / "vref/vref.txt").write_text("".join(f"GEN 1:{number}\n" for number in range(1, 9)))
    (folder / "vref/en-x.txt").write_text("".join(f"Text of {number}.\n" for number in range(1, 9)))
    (folder / "curves.csv").write_text("step,train_loss,val_loss\n1,2.0,3.0\n2,1.0,2.5\n")
    record = {"global_step": 3, "grokking/lm/en/train_loss": 1.0, "grokking/lm/en/val_loss": 2.0}
    (folder / "metrics.jsonl").write_text((json.dumps(record) + "\n") * 3)


def write_stored(folder):
    """What the program has stored."""
    corpus = synthetic_corpus()
    save_corpus(corpus, folder / "corpus")
    token_set = compile_token_set(corpus, ["qaa"], load_tokenizer("bytes"), split_verses(corpus), folder / "sets")
    token_set.directory.rename(folder / "token_set")
    train_sentencepiece(corpus.translations[0].texts, folder / "tokenizer.model", 300, 1.0)
    checkpoint = folder / "step-00000003"
    checkpoint.mkdir()
    state = {"state": {"global_step": 3}, "hooks": {}, "identity": {"seed": 1}}
    (checkpoint / STATE_FILE).write_text(json.dumps(state))
    files = {STATE_FILE: hash_file(checkpoint / STATE_FILE)}
    saved = "2026-11-26T00:00:00"
    Manifest(0, saved, 3, 24, 1, 0, None, None, {"seed": 1}, {"genesis_ds": "0"}, files).write(checkpoint)
    weights = {weight.name: torch.zeros(weight.shape) for weight in parameters(SHAPE)}
    of_decoder = {name.removeprefix("base."): weight for name, weight in weights.items()}
    for name in ("states", "export", "legacy", "checkpoints/weights"):
        (folder / name).mkdir(parents=True)
    torch.save(model_states(), folder / "states/mp_rank_00_model_states.pt")
    shape = {"model": vars(SHAPE)}
    said = {"format": "genesis_ds", "format_version": 2, "tokenizer": {"kind": "bpe", "path": "tokenizer.model"}}
    (folder / "export/config.json").write_text(json.dumps(said | shape))
    save_file(of_decoder, folder / "export/model.safetensors")
    (folder / "legacy/config.json").write_text(json.dumps({"n_heads": 2, "dim": 8}))
    torch.save({"model_state_dict": of_decoder}, folder / "legacy/training_state.pt")
    save_file(weights, folder / "checkpoints/weights/step-00000003.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(shape))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A valid file for each reader."""
    folder = tmp_path_factory.mktemp("valid")
    write_texts(folder)
    write_stored(folder)
    return folder


@contextmanager
def patience():
    def give_up(*_):
        raise AssertionError(f"still reading after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents(folder):
    return {path: hash_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read(folder, name):
    READERS[name](folder / name)


NASTY = [
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b"\n", b"\t", b'"', b"'", b"{", b"[", b"]", b"}", b":"),
    *(b",", b"&a *a", b"<<: *a", b"!!", b"---\n", b"~", b"null", b"no", b"2:30", b"NaN", b"1e999", b"-1", b"9" * 5000),
    *(b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"../", "태초에\u2028".encode(), b"GEN 1:1", b"Psalm 119:176-180"),
]
edits = st.tuples(st.floats(0, 1), st.integers(0, 60), st.one_of(st.sampled_from(NASTY), st.binary(max_size=6)))


def mutated(content, edits):
    """Each edit puts some bytes in the place of some others."""
    for share, length, replacement in edits:
        position = int(share * len(content))
        content = content[:position] + replacement + content[position + length :]
    return content


@settings(
    max_examples=max(1, EXAMPLES // len(READERS)),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(edits=st.one_of(st.lists(edits, min_size=1, max_size=3), st.just([(0.0, 10**9, b"")])))
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_read_or_refused_in_one_line(folder, name, edits):
    path = folder / name
    valid, before = path.read_bytes(), contents(folder)
    content = mutated(valid, edits)
    path.write_bytes(content)
    try:
        with patience():
            READERS[name](path)
    except UserError as error:
        message = str(error)
    else:
        message = "read"
    finally:
        assert path.read_bytes() == content
        path.write_bytes(valid)
        assert contents(folder) == before
    assert len(message.splitlines()) == 1
    assert len(message) < 2500
