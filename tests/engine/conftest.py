import json
import sys

import pytest
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
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        done = run_command([*command, "tests/engine/worker.py", str(spec), str(out)], timeout=600)
        assert done.returncode == 0, done.stdout[-12000:]
        return json.loads(out.read_text())

    return train


@pytest.fixture
def train_py(synthetic_corpus_directory, tmp_path):
    """Start launch/train.py on the synthetic corpus in tmp_path, with a tiny model; extra arguments override."""
    places = {
        "--data.corpus": synthetic_corpus_directory,
        "--data.token_sets": tmp_path / "token_sets",
        "--output_dir": tmp_path / "runs",
    }

    def start(*arguments, launcher=("python",), cwd=ROOT, timeout=240, script="launch/train.py"):
        launcher = [sys.executable if word == "python" else word for word in launcher]
        length = {} if "--max_epochs" in arguments else {"--max_steps": 4}
        defaults = [word for key, value in (TINY | places | length).items() for word in (key, str(value))]
        return run_command([*launcher, str(ROOT / script), *defaults, *map(str, arguments)], timeout, cwd)

    return start


@pytest.fixture
def train_arithmetic(tmp_path):
    """Start launch/train.py on launch/runs/modular_addition.yaml in tmp_path; the arguments override."""

    def start(*arguments, launcher=(sys.executable,), timeout=240):
        run = ("--config", "launch/runs/modular_addition.yaml", "--output_dir", tmp_path / "runs")
        zero2 = ("--ds_config", "ds_configs/zero2.json")
        return run_command([*launcher, "launch/train.py", *map(str, (*run, *zero2, *arguments))], timeout)

    return start
