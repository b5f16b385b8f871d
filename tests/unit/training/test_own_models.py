"""A model of a user's own: what `extensions.model` may name, what is said where it may not, and how it is counted."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genesis_ds.checkpoint.load.initial import initial_weights
from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models.export import export
from genesis_ds.config import ActivationCheckpointingConfig, BatchConfig, ExtensionsConfig, ModelShape, RunConfig
from genesis_ds.engine.engine import parameter_groups
from genesis_ds.errors import Unavailable, UserError
from genesis_ds.memory.activations.micro_step import micro_step
from genesis_ds.memory.deepspeed.buffers import by_group
from genesis_ds.memory.deepspeed.timeline import Alloc
from genesis_ds.memory.machine.hardware import find_hardware
from genesis_ds.memory.scenario import Scenario
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.model import own
from genesis_ds.model.documents import Documents
from genesis_ds.model.multitask import LM, STATES, build_model
from genesis_ds.tasks import load
from genesis_ds.training.session import train_arguments

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
TOY = "toy_model:Gru"
SHAPE = ModelShape(n_layers=3, dim=16, n_heads=2, vocab_size=260)
OF_GRU = "import torch\nfrom toy_model import Gru\nclass Model(Gru):\n"
MADE = f"{OF_GRU}    def __init__(self, shape):\n        super().__init__(shape)\n        "
CALLED = f"{OF_GRU}    def forward(self, tokens):\n        return "
MODULES = {
    "broken": "class Model(\n",
    "plain": "class Model:\n    pass\n",
    "blockless": f"{MADE}del self.blocks\n",
    "listed": f"{MADE}blocks = [*self.blocks]\n        del self.blocks\n        self.blocks = blocks\n",
    "shallow": f"{MADE}del self.blocks[0]\n",
    "buffered": f"{MADE}self.register_buffer('seen', torch.zeros(1))\n",
    "reading": f"{MADE}torch.zeros(1).item()\n",
    "seeing": f"{CALLED}(h := super().forward(tokens)) + h.flip(1)\n",
    "mixing": f"{OF_GRU}    def forward(self, tokens, documents=None):\n        return super().forward(tokens)\n",
    "failing": f"{MADE}self.norn\n",
    "tied": f"{MADE}self.blocks[1].norm.weight = self.blocks[0].norm.weight\n",
    "valued": f"{CALLED}super().forward(tokens) * (1 if tokens.sum().item() else 2)\n",
    "growing": f"{MADE}for index, block in enumerate(self.blocks):\n"
    "            block.wider = torch.nn.Linear(16, 16 * (index + 1))\n"
    "            block.register_forward_hook(lambda block, _, x: x + block.wider(x).sum(-1, keepdim=True))\n",
    "narrow": f"{CALLED}super().forward(tokens)[..., 1:]\n",
    "paired": f"{CALLED}super().forward(tokens), None\n",
    "positions": f"{OF_GRU}    def forward(self, tokens, documents=None):\n"
    "        return super().forward(tokens if documents is None else tokens + documents.positions)\n",
}


@pytest.fixture(autouse=True)
def in_a_directory_with_modules(tmp_path, monkeypatch):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "toy_model.py").write_text((EXAMPLES / "toy_model.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in (*MODULES, "toy_model"):
        sys.modules.pop(name, None)


def run(path=TOY, tasks=None, init_from=None, **shape):
    return RunConfig(
        extensions=ExtensionsConfig(model=path),
        model=dataclasses.replace(SHAPE, **shape),
        batch=BatchConfig(seq_len=16, micro_batch_size=4, global_batch_size=8),
        tasks=tasks or {},
        init_from=init_from,
    )


def scenario(config, stage=2):
    ds_config = {"zero_optimization": {"stage": stage}}
    return Scenario(config, "run.yaml", ds_config, f"zero{stage}.json", find_hardware("h100"))


def real(config):
    sized = scenario(config).sized()
    heads = load.make_heads(config, sized.heads)
    return build_model(sized.model, ActivationCheckpointingConfig(), lambda: heads, own.trunk_of(config))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere:Model", {}, "extensions.model: nowhere:Model cannot be imported: ModuleNotFoundError"),
        ("broken:Model", {}, "extensions.model: broken:Model cannot be imported: SyntaxError"),
        (
            "plain:Model",
            {},
            "extensions.model: plain:Model is no module; derive it from torch.nn.modules.module.Module",
        ),
        (
            TOY,
            {"width": 2},
            f"model.options: {TOY}: got an unexpected keyword argument 'width'; the options it takes: dr",
        ),
        ("blockless:Model", {}, "extensions.model: blockless:Model has no blocks; make `self.blocks` an nn.ModuleList"),
        (
            "listed:Model",
            {},
            "listed:Model has blocks that are a list; make `self.blocks` an nn.ModuleList of its layers",
        ),
        (
            "shallow:Model",
            {},
            "shallow:Model has 2 blocks, but model.n_layers is 3; make shape.n_layers of them, or give",
        ),
        (
            "narrow:Model",
            {},
            "narrow:Model makes [2, 8, 15] of tokens [2, 8]; return hidden states [2, 8, 16], the last",
        ),
        ("paired:Model", {}, "paired:Model makes a tuple of tokens [2, 8]; return hidden states [2, 8, 16]"),
        (
            "buffered:Model",
            {},
            "buffered:Model keeps the buffer seen, which checkpoints do not hold; register it with pe",
        ),
        ("reading:Model", {}, "reading:Model cannot be made on torch's meta device, where a model has no values: "),
    ],
)
def test_a_class_that_cannot_be_had_is_one_line_before_anything_is_built(path, options, message):
    with pytest.raises(UserError) as caught:
        scenario(run(path, options=options)).plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("seeing:Model", "extensions.model: seeing:Model lets a state depend on the tokens after it"),
        ("mixing:Model", "extensions.model: mixing:Model lets a state depend on tokens of another document"),
    ],
)
def test_a_state_that_sees_what_it_may_not_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        own.require_model(run(path))
    own.require_model(run())


def test_an_error_in_its_constructor_is_raised_as_it_is():
    with pytest.raises(AttributeError, match="norn"):
        scenario(run("failing:Model")).plan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {options: {a: 1}}\n", "line 1: model.options: the decoder takes none; name a model of your own"),
        (
            "extensions: {model: a:B}\nmodel: {tie_embeddings: true}\n",
            "line 2: model.tie_embeddings: true, but the output",
        ),
        (
            "extensions: {model: a:B}\nactivation_checkpointing: {mode: mlp}\n",
            "line 2: activation_checkpointing.mode: 'mlp' is a part of the decoder's, not a:B's; give block",
        ),
        ("extensions: {model: toy.py}\n", "line 1: extensions.model: toy.py is not allowed; give module:Class"),
    ],
)
def test_what_contradicts_it_is_one_line_with_its_place(text, message):
    Path("run.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        train_arguments(["--config", "run.yaml"])


def test_options_come_from_yaml_and_flags():
    Path("run.yaml").write_text(f"extensions: {{model: {TOY}}}\nmodel: {{options: {{dropout: 0.25}}}}\n")
    assert train_arguments(["--config", "run.yaml"]).run.model.options == {"dropout": 0.25}
    flags = ["--model.options.dropout", "0.5", "--extensions.model", "positions:Model"]
    config = train_arguments(["--config", "run.yaml", *flags]).run
    assert (config.model.options, config.extensions.model) == ({"dropout": 0.5}, "positions:Model")


@pytest.mark.parametrize("path", [TOY, "positions:Model", "tied:Model"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_memory_plan_counts_its_weights_and_activations(path, stage):
    of = scenario(run(path), stage)
    model, planned = real(of.run), run_parameters(of.sized())
    weights = [(name, tuple(weight.shape)) for name, weight in model.named_parameters()]
    assert [(weight.name, weight.shape) for weight in planned] == weights
    groups = {group["name"]: sorted(group["parameters"]) for group in parameter_groups(model)}
    assert {name: sorted(weight.name for weight in found) for name, found in by_group(planned).items()} == groups
    assert all(weight.name.startswith(f"{weight.module}.") for weight in planned)
    assert {f"base.model.blocks.{index}" for index in range(3)} < {weight.module for weight in planned}
    plan = of.plan()
    assert plan.parameters == sum(weight.numel() for weight in model.parameters())
    assert plan.notes == []
    events = micro_step(of.sized(), LM, gpu=True).events
    assert {event.cause for event in events if isinstance(event, Alloc)} >= {"activations", "backward workspace"}
    assert f"3 layers x 16, {path}, vocabulary 260" in plan.model
    larger = scenario(run(path, dim=32), stage).plan()
    assert larger.gpu.allocated_peak_bytes > plan.gpu.allocated_peak_bytes


def test_a_model_that_reads_values_is_planned_by_its_weights_and_the_plan_says_so():
    plan = scenario(run("valued:Model")).plan()
    assert plan.gpu.breakdown["weights"] > 0
    (note,) = plan.notes
    assert not plan.is_whole
    assert note.startswith("activations are not counted, weights are: a trace of the model ends with RuntimeError: ")


def test_blocks_of_different_sizes_are_traced_whole():
    of = scenario(run("growing:Model", n_layers=8))
    assert of.plan().notes == []
    sizes = {event.nbytes for event in micro_step(of.sized(), LM, gpu=True).events if isinstance(event, Alloc)}
    assert sizes >= {4 * (4 * 16) * 16 * wider for wider in range(1, 9)}


def test_the_weights_of_norms_do_not_decay_and_the_output_layer_is_the_head_of_lm():
    groups = {group["name"]: group["parameters"] for group in parameter_groups(real(run()))}
    assert groups["norms"] == [
        *(f"base.model.blocks.{index}.norm.{part}" for index in range(3) for part in ("weight", "bias")),
        "base.norm.weight",
    ]
    assert groups[LM] == ["base.output.weight"]


def test_without_documents_there_are_no_tasks_on_verses():
    assert load.trained(run()) == ("lm",)
    with pytest.raises(Unavailable, match=f"{TOY} does not take documents; its forward needs a parameter `documents`"):
        own.require_documents(run())
    assert load.trained(run("positions:Model")) == load.trained(RunConfig())


def test_with_documents_its_layers_are_looked_at_one_by_one():
    model = real(run("positions:Model")).eval()
    documents = Documents.of(torch.tensor([[0, 0, 0, 1, 1, 1]]))
    tokens, examples = torch.arange(6)[None], torch.tensor([[0], [1]])
    states = model(STATES, tokens, documents, examples, depths=(1, 3)).output
    assert states.shape == (2, 1, 2, 16)
    inside = model.base.model
    first = inside.blocks[0](inside.embedding(tokens + documents.positions))
    assert torch.allclose(states[:, 0, 0], documents.mean(first))
    assert torch.allclose(states[:, 0, 1], documents.mean(model.base.hidden(tokens, documents)))


@pytest.mark.parametrize("offload", [False, True])
def test_recomputed_blocks_have_the_same_gradients_with_the_same_dropout(offload):
    shape, tokens, gradients = dataclasses.replace(SHAPE, options={"dropout": 0.5}), torch.arange(12).view(2, 6), []
    for checkpointing in (ActivationCheckpointingConfig(), ActivationCheckpointingConfig("block", 2, offload)):
        torch.manual_seed(0)
        model = build_model(shape, checkpointing, make_trunk=own.trunk_of(run()))
        model(LM, tokens).output.square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.fixture
def stored(tmp_path):
    """A file of weights where a run of the toy model has put it; the class is nowhere to be found any more."""
    weights = {name: weight.detach().clone() for name, weight in real(run()).named_parameters()}
    folder = tmp_path / "runs/toy/checkpoints/weights"
    folder.mkdir(parents=True)
    save_file(weights, folder / "step-00000001.safetensors")
    config = {"extensions": {"model": TOY}, "model": dataclasses.asdict(SHAPE)}
    (folder.parents[1] / "config.yaml").write_text(json.dumps(config))
    (tmp_path / "toy_model.py").unlink()
    sys.modules.pop("toy_model")
    own.meta_trunk.cache_clear()
    return folder / "step-00000001.safetensors", weights


def test_opening_and_exporting_one_never_imports_its_class(stored, tmp_path):
    file, weights = stored
    assert export(file, tmp_path / "out", "safetensors") == []
    for path in (file, tmp_path / "out"):
        model = open_model(path)
        assert (model.own, model.names) == (TOY, list(model.tensors.shapes))
        assert all(torch.equal(model.tensors.read(name), weight) for name, weight in weights.items())
    for attempt in (lambda: open_model(tmp_path / "out").decoder(), lambda: export(file, tmp_path / "hf", "hf")):
        with pytest.raises(
            UserError, match=rf"a model of {TOY}, which is imported for a run that names it in its YAML"
        ):
            attempt()
    assert "toy_model" not in sys.modules


def test_a_run_of_the_same_class_begins_with_its_weights(stored, tmp_path):
    file, weights = stored
    with pytest.raises(UserError, match=f"init_from: .*: a model of {TOY}, and this run's is of the decoder"):
        initial_weights(scenario(run(None, init_from=str(file))).sized(), None, trust=False)
    assert "toy_model" not in sys.modules
    (tmp_path / "toy_model.py").write_text((EXAMPLES / "toy_model.py").read_text())
    found = initial_weights(scenario(run(init_from=str(file))).sized(), None, trust=False)
    assert found.read.keys() == weights.keys()
    with pytest.raises(
        UserError, match=r"init_from: .* its model has options \{\}; this run's has options \{'dropout'"
    ):
        initial_weights(scenario(run(init_from=str(file), options={"dropout": 0.1})).sized(), None, trust=False)
