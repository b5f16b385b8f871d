import pytest
import torch
from torch import nn

from genesis_ds.config import ModelConfig
from genesis_ds.engine.deepspeed import parameter_groups
from genesis_ds.memory.shapes import parameters
from genesis_ds.model.transformer import Transformer

SMALL = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50}
CONFIGS = [
    ModelConfig(**SMALL | variant)
    for variant in (
        {},
        {"norm": "rmsnorm"},
        {"n_kv_heads": 2},
        {"tie_embeddings": True},
        {"norm": "rmsnorm", "n_kv_heads": 1, "tie_embeddings": True},
    )
]


def real(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_names_shapes_and_order_are_the_models(config):
    expected = [(name, tuple(parameter.shape)) for name, parameter in real(config).named_parameters()]
    assert [(parameter.name, parameter.shape) for parameter in parameters(config)] == expected


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_sizes_add_up_to_the_configs_count(config):
    assert sum(parameter.numel for parameter in parameters(config)) == config.n_parameters


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_matrices_are_those_that_weight_decay_applies_to(config):
    model = real(config)
    decayed = {id(weight) for weight in parameter_groups(model)[0]["params"]}
    expected = [name for name, weight in model.named_parameters() if id(weight) in decayed]
    assert [parameter.name for parameter in parameters(config) if parameter.matrix] == expected


def test_the_module_is_the_unit_that_holds_the_parameter():
    assert all(
        parameter.name.startswith(f"{parameter.module}.") for config in CONFIGS for parameter in parameters(config)
    )
    assert {parameter.module for parameter in parameters(CONFIGS[0])} == {
        "tok_embeddings",
        "layers.0",
        "layers.1",
        "layers.2",
        "norm",
        "output",
    }
