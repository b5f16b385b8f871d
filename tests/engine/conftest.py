import json
import sys

import pytest
from helpers.forks import run_forked
from helpers.jobs import ROOT, TINY, run_command

from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def synthetic_corpus_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpora") / "synthetic"
    save_corpus(synthetic_corpus(), directory)
    return directory


@pytest.fixture(scope="session")
def synthetic_token_set(tmp_path_factory):
    corpus = synthetic_corpus()
    root = tmp_path_factory.mktemp("token_sets")
    return compile_token_set(corpus, [], load_tokenizer("bytes"), split_verses(corpus), root)


@pytest.fixture(scope="session")
def train_cases(synthetic_corpus_directory, synthetic_token_set, tmp_path_factory):
    """cases, number of ranks -> the worker's results by case name."""

    def train(cases, ranks):
        folder = tmp_path_factory.mktemp("cases")
        spec, out = folder / "spec.json", folder / "out.json"
        data = {"corpus": str(synthetic_corpus_directory), "token_set": str(synthetic_token_set.directory)}
        spec.write_text(json.dumps(data | {"cases": cases}))
        done = run_forked("tests/engine/worker.py", [spec, out], ranks=ranks, timeout=1500)
        assert done.returncode == 0, done.stdout[-12000:]
        return json.loads(out.read_text())

    return train


@pytest.fixture
def train_py(synthetic_corpus_directory, tmp_path):
    """Train as launch/train.py on the synthetic corpus in tmp_path, with a tiny model; extra arguments override.

    Without a launcher, of which "python" is one, so many ranks are forked.
    """
    places = {
        "--data.corpus": synthetic_corpus_directory,
        "--data.token_sets": tmp_path / "token_sets",
        "--output_dir": tmp_path / "runs",
    }

    def start(*arguments, launcher=(), ranks=1, cwd=ROOT, timeout=240, script="launch/train.py"):
        length = {} if "--max_epochs" in arguments else {"--max_steps": 4}
        defaults = [word for key, value in (TINY | places | length).items() for word in (key, str(value))]
        return run_training(launcher, ranks, script, [*defaults, *arguments], cwd=cwd, timeout=timeout)

    return start


@pytest.fixture
def train_arithmetic(tmp_path):
    """Train as launch/train.py on launch/runs/modular_addition.yaml in tmp_path; the arguments override."""

    def start(*arguments, launcher=(), ranks=1, timeout=240):
        run = ("--config", "launch/runs/modular_addition.yaml", "--output_dir", tmp_path / "runs")
        zero2 = ("--ds_config", "ds_configs/zero2.json")
        return run_training(launcher, ranks, "launch/train.py", [*run, *zero2, *arguments], timeout=timeout)

    return start


def run_training(launcher, ranks, script, arguments, *, cwd=ROOT, timeout):
    """Start the script under a launcher, or fork it."""
    if not launcher:
        return run_forked(script, arguments, ranks=ranks, cwd=cwd, timeout=timeout)
    words = [sys.executable if word == "python" else word for word in launcher]
    return run_command([*words, str(ROOT / script), *map(str, arguments)], timeout, cwd)
