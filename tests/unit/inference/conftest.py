import dataclasses

import pytest
import torch
import yaml
from helpers.stored_runs import run_on
from safetensors.torch import save_file

from genesis_ds.checkpoint.models.export import export
from genesis_ds.config import ActivationCheckpointingConfig, BatchConfig, ModelShape, RunConfig, SamplesConfig
from genesis_ds.corpus.storage import save_corpus
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.inference.loaded import load
from genesis_ds.model.multitask import build_model

TINY = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 260, "max_seq_len": 64}
SEQ_LEN = 32


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpora") / "synthetic"
    save_corpus(synthetic_corpus(), directory)
    return directory


@pytest.fixture(scope="session")
def make_export(tmp_path_factory):
    """A seed and fields of the shape -> the export of a model of bytes with random weights and windows of SEQ_LEN."""

    def make(seed=0, **shape):
        folder = tmp_path_factory.mktemp("models")
        config = ModelShape(**TINY | shape)
        torch.manual_seed(seed)
        model = build_model(config, ActivationCheckpointingConfig())
        with torch.no_grad():
            model.base.tok_embeddings.weight.mul_(3)  # so that the next token depends on the last ones
        weights = folder / "run/checkpoints/weights/step-00000007.safetensors"
        weights.parent.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in model.named_parameters()}, weights)
        run = RunConfig(model=config, batch=BatchConfig(seq_len=SEQ_LEN), samples=SamplesConfig(new_tokens=0))
        (folder / "run/config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(run)))
        export(weights, folder / f"model_{seed}", "safetensors")
        return folder / f"model_{seed}"

    return make


@pytest.fixture(scope="session")
def exported(make_export):
    return make_export()


@pytest.fixture(scope="session")
def loaded(exported):
    return load(exported)


@pytest.fixture(scope="session")
def run_directory(corpus, tmp_path_factory):
    return run_on(corpus, tmp_path_factory.mktemp("runs") / "text")
