import pytest
import torch
from helpers.built_in_heads import heads_of
from torch import nn

from genesis_ds.config import ActivationCheckpointingConfig, ModelShape, RunConfig
from genesis_ds.engine.engine import parameter_groups
from genesis_ds.memory.deepspeed.buffers import by_group
from genesis_ds.memory.shapes import is_of_block, parameters
from genesis_ds.model import groups
from genesis_ds.model.multitask import MultiTaskModel, build_model
from genesis_ds.tasks import load

SMALL = {"n_layers": 3, "dim": 32, "n_heads": 4, "intermediate_size": 48, "vocab_size": 50}
HEADS = ("coherence", "cross_reference", "paraphrase")
CASES = [
    (ModelShape(**SMALL | variant), tasks)
    for variant, tasks in (
        ({}, ()),
        ({}, HEADS),
        ({"norm": "rmsnorm"}, HEADS[1:]),
        ({"n_kv_heads": 2}, HEADS[:1]),
        ({"tie_embeddings": True}, ()),
        ({"norm": "rmsnorm", "n_kv_heads": 1, "tie_embeddings": True}, HEADS),
    )
]
PROJECTION_DIM = 24


def real(config: ModelShape, tasks: tuple[str, ...]) -> MultiTaskModel:
    with torch.device("meta"):
        return build_model(config, ActivationCheckpointingConfig(), lambda: heads(config, tasks))


def heads(config: ModelShape, tasks: tuple[str, ...]) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return heads_of(tasks, config.dim, PROJECTION_DIM)


@pytest.mark.parametrize(("config", "tasks"), CASES, ids=str)
def test_names_shapes_and_order_are_the_models(config, tasks):
    expected = [(name, tuple(parameter.shape)) for name, parameter in real(config, tasks).named_parameters()]
    planned = parameters(config, heads(config, tasks))
    assert [(parameter.name, parameter.shape) for parameter in planned] == expected


@pytest.mark.parametrize(("config", "tasks"), CASES, ids=str)
def test_sizes_of_the_decoder_add_up_to_the_configs_count(config, tasks):
    planned = parameters(config, heads(config, tasks))
    assert sum(weight.numel for weight in planned if weight.name.startswith("base.")) == config.n_parameters


@pytest.mark.parametrize("largest", [groups.LARGEST, 20_000])
@pytest.mark.parametrize(("config", "tasks"), CASES, ids=str)
def test_groups_and_their_order_are_the_engines(config, tasks, largest, monkeypatch):
    monkeypatch.setattr(groups, "LARGEST", largest)
    model = real(config, tasks)
    names = {id(weight): name for name, weight in model.named_parameters()}
    expected = [(group["name"], [names[id(weight)] for weight in group["params"]]) for group in parameter_groups(model)]
    planned = by_group(parameters(config, heads(config, tasks)))
    found = [(name.split()[0], [weight.name for weight in weights]) for name, weights in planned.items()]
    assert found == expected
    assert all(sum(weight.numel for weight in found) <= largest or len(found) == 1 for found in planned.values())
    assert largest > 20_000 or found[0][0] == found[1][0] == "matrices"


@pytest.mark.parametrize(("config", "tasks"), CASES, ids=str)
def test_the_matrices_of_blocks_are_the_engines_where_they_are_a_group_of_their_own(config, tasks):
    groups = parameter_groups(real(config, tasks), separates_blocks=True)
    engines = {group["name"]: group["parameters"] for group in groups}
    planned = parameters(config, heads(config, tasks))
    assert [each.name for each in planned if is_of_block(each)] == engines["blocks"]
    others = [each.name for each in planned if each.group == "matrices" and not is_of_block(each)]
    assert others == engines["matrices"] == ["base.tok_embeddings.weight"]
    decayed = parameter_groups(real(config, tasks), {"matrices": 5.0}, separates_blocks=True)
    assert {group["name"] for group in decayed if group.get("weight_decay") == 5.0} == {"matrices", "blocks"}


def test_the_module_is_the_unit_that_holds_the_parameter():
    of_all = [parameter for case in CASES for parameter in parameters(case[0], heads(*case))]
    assert all(parameter.name.startswith(f"{parameter.module}.") for parameter in of_all)
    blocks = [f"base.layers.{index}" for index in range(3)]
    modules = ["base.tok_embeddings", *blocks, "base.norm", "base.output", *(f"heads.{task}" for task in HEADS)]
    assert list(dict.fromkeys(parameter.module for parameter in parameters(CASES[1][0], heads(*CASES[1])))) == modules


@pytest.mark.parametrize(
    ("weights", "trained"),
    [
        ({}, ("lm", *HEADS)),
        ({"lm": 1.0}, ("lm",)),
        ({"paraphrase": 0.5, "coherence": 0.5}, ("coherence", "paraphrase")),
        ({"lm": 0.7, "coherence": 0.3, "paraphrase": 0.0}, ("lm", "coherence")),
    ],
)
def test_a_run_trains_what_has_a_weight_or_all(weights, trained):
    run = RunConfig(tasks=weights)
    assert load.trained(run) == trained
    assert tuple(load.meta_heads(run, trained)) == tuple(task for task in trained if task != "lm")
