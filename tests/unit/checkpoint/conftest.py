"""Models in files as a run writes them, without a run."""

from dataclasses import asdict

import pytest
import torch
import yaml
from helpers.built_in_heads import heads_of
from helpers.saved_runs import manager_of
from helpers.tiny_models import TINY
from safetensors.torch import save_file

from genesis_ds.config import (
    ActivationCheckpointingConfig,
    BatchConfig,
    ModelShape,
    RunConfig,
    SamplesConfig,
    TokenizerConfig,
)
from genesis_ds.model.multitask import build_model
from genesis_ds.tokenizer.sentencepiece import train_sentencepiece


@pytest.fixture
def trained(tmp_path):
    """Shape, tasks, tokenizer's model -> a model, and its file of weights as a run writes it."""

    def train(shape, tasks=(), dtype=torch.float32, bpe=None):
        config = ModelShape(**TINY | shape)
        torch.manual_seed(0)
        model = build_model(config, ActivationCheckpointingConfig(), lambda: heads_of(tasks, config.dim, 16))
        model = model.to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        tokenizer = TokenizerConfig("bpe", str(bpe)) if bpe else TokenizerConfig()
        batch = BatchConfig(seq_len=32)
        run = RunConfig(model=config, tokenizer=tokenizer, batch=batch, samples=SamplesConfig(new_tokens=0))
        weights = tmp_path / "run/checkpoints/weights/step-00000007.safetensors"
        weights.parent.mkdir(parents=True)
        save_file(dict(model.named_parameters()), weights)
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(asdict(run)))
        return model, weights

    return train


@pytest.fixture
def bpe(tmp_path):
    """The file of a small tokenizer."""
    path = tmp_path / "tokenizers/small.model"
    train_sentencepiece((f"the boat {i} sailed to the harbour" for i in range(300)), path, vocab_size=300)
    return path


@pytest.fixture
def manager(tmp_path, one_rank):
    return manager_of(tmp_path / "checkpoints")
