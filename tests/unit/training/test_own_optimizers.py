"""Optimizers by name: what a run may ask for, what is counted of them, and what is said where it cannot be."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch

from genesis_ds.checkpoint.load.resume import read_training_state
from genesis_ds.config import ExtensionsConfig, GrokfastConfig, ModelConfig, OptimizerConfig, RunConfig
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import find_hardware
from genesis_ds.memory.scenario import Scenario
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.optimizers import load, registry
from genesis_ds.training.session import train_arguments

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
TOY = "toy_optimizer:Lion"
OWN = """
import torch
from torch.optim import Optimizer
class Plain(Optimizer):
    def __init__(self, params, lr): super().__init__(params, {"lr": lr})
class Text(Plain): state_tensors = "exp_avg"
class Weight(Plain): state_tensors = ("weight",)
class NoRate(Optimizer):
    state_tensors = ()
    def __init__(self, params): super().__init__(params, {})
class Keeping(Plain):
    state_tensors = ("whole",)
    kept = {}
    def step(self): self.state[self.param_groups[0]["params"][0]].update(self.kept)
class Named(Keeping): kept = {"whole": torch.zeros(6), "step": torch.tensor(1.0)}
class Unnamed(Keeping): kept = {"other": torch.zeros(6)}
class Wide(Keeping): kept = {"whole": torch.zeros(6, dtype=torch.float64)}
class Short(Keeping): kept = {"whole": torch.zeros(3)}
class Late(Keeping):
    steps = 0
    def step(self):
        self.steps += 1
        if self.steps > 2: self.state[self.param_groups[0]["params"][0]]["late"] = torch.zeros(6)
class InGroup(Keeping):
    def step(self): self.param_groups[0]["k"] = self.param_groups[0].get("k", 0) + 1
class OfNone(Keeping):
    def step(self): self.state["global"] = {"k": 1}
class Counting(Keeping): kept = {"step": 1}
class OnItself(Plain):
    state_tensors = ()
    t = 0
    def step(self): self.t += 1
class Stepless(Plain): state_tensors = ()
class Anything(Keeping):
    def __init__(self, params, **options): super().__init__(params, options["lr"])
"""


@pytest.fixture(autouse=True)
def in_a_directory_with_modules(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "toy_optimizer.py").write_text((EXAMPLES / "toy_optimizer.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("own", "toy_optimizer"):
        sys.modules.pop(name, None)


def run(path=TOY, name="toy", grokfast=False, **optimizer):
    filtered = GrokfastConfig(lamb=2.0 if grokfast else 0.0)
    return RunConfig(
        extensions=ExtensionsConfig(optimizers={name: path} if path else {}),
        optimizer=OptimizerConfig(name=name, grokfast=filtered, **optimizer),
        model=ModelConfig(vocab_size=260),
    )


def literal(message):
    """A pattern in which .* alone has a meaning."""
    return ".*".join(map(re.escape, message.split(".*")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (run("nowhere:Lion"), "extensions.optimizers.toy: nowhere:Lion cannot be imported: ModuleNotFoundError"),
        (run("own:torch"), "own:torch is no optimizer; derive it from torch.optim.optimizer.Optimizer"),
        (
            run("own:Plain"),
            'own:Plain has state_tensors None; give it .* such as state_tensors = ("exp_avg",)',
        ),
        (run("own:Text"), "own:Text has state_tensors 'exp_avg'"),
        (run("own:Weight"), "and none of weight, step, grokfast_ema"),
        (run("own:NoRate"), "optimizer.name: toy takes no lr, which the schedule sets"),
        (run("own:Unnamed"), "optimizer.name: toy keeps other in its state; that may hold the tensors named in"),
        (run("own:Wide"), "keeps whole in its state"),
        (run("own:Short"), "keeps whole in its state"),
        (run("own:Late"), "toy keeps late in its state"),
        (run("own:InGroup"), "toy keeps k outside of the weights' state, where a checkpoint does not keep it"),
        (run("own:OfNone"), "toy keeps global outside of the weights' state"),
        (run("own:OnItself"), "toy keeps self.t outside of the weights' state"),
        (run("own:Stepless"), "optimizer.name: toy lacks step"),
        (run("own:Counting"), "keeps step in its state; .* a float32 tensor step"),
        (run(options={"cautios": True}), "optimizer.options.cautios: toy does not take it; did you mean 'cautious'?"),
        (run(options={"lr": 1.0}), "optimizer.options.lr: is a setting of its own; give optimizer.lr"),
        (run(eps=1e-4), "optimizer.eps: toy does not take it; leave it out"),
        (run(None, "sgd", betas=[0.9, 0.99]), "optimizer.betas: sgd does not take it; leave it out"),
        (run(None, "sgd", options={"nesterov": True}), "optimizer: sgd does not take these .* ValueError: Nesterov"),
        (run(None, "muon", options={"momentum": 1.5}), "optimizer.options.momentum: 1.5 is not allowed; give a number"),
        (
            run(None, "muon", options={"momentum": "much"}),
            "optimizer.options.momentum: much is not allowed; give a numb",
        ),
        (run(None, "muon", options={"nesterov": True}), "optimizer.options.nesterov: muon does not take it"),
        (run(None, "adamw", options={"amsgrad": True}), "optimizer.options.amsgrad: adamw takes no options"),
        (run(TOY, "sgd"), "extensions.optimizers.sgd: sgd is built in; choose another name"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_its_key(config, message):
    with pytest.raises(UserError, match=literal(message)):
        load.require_optimizer(config)


@pytest.mark.parametrize(
    "config",
    [
        run(),
        run(options={"cautious": True}, betas=[0.9, 0.99]),
        run("own:Named"),
        run("own:Anything", options={"any": 1}),
        run(None, "sgd"),
        run(None, "sgd", options={"momentum": 0.9, "nesterov": True}),
        run(None, "adamw"),
        run(None, "muon", options={"momentum": 0.9}, betas=[0.9, 0.99]),
    ],
)
def test_what_can_be_had_is(config):
    load.require_optimizer(config)


def test_one_line_of_the_registry_makes_an_optimizer_built_in(monkeypatch):
    monkeypatch.setitem(registry.OPTIMIZERS, "lion", registry.Entry(TOY, ("exp_avg",)))
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    built_in = run(None, "lion")
    load.require_optimizer(built_in)
    assert load.state_tensors(built_in) == ("exp_avg",)
    assert load.make_optimizer(built_in, [{"params": [torch.ones(1)]}]).param_groups[0]["betas"] == [0.9, 0.95]


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("optimizer:\n  name: adam\n", (), "line 2: optimizer.name: no optimizer is named adam; did you mean 'adamw'?"),
        (
            "optimizer: {name: toy_lyon}\nextensions:\n  optimizers: {toy_lion: a:B}\n",
            (),
            "line 1: .*'toy_lion'?",
        ),
        ("", ("--optimizer.name", "lion"), "optimizer.name: no optimizer is named lion; valid: adamw, muon, sgd"),
        (
            "optimizer:\n  name: sgd\n  implementation: torch\n",
            (),
            "line 3: optimizer.implementation: torch is not",
        ),
        ("optimizer:\n  options: 3\n", (), "line 2: optimizer.options is a section of keys, not 3"),
        (
            "extensions:\n  optimizers:\n    a: b\n",
            (),
            "line 3: extensions.optimizers.a: b is not allowed",
        ),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(tmp_path, text, flags, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=literal(message)):
        train_arguments(["--config", "run.yaml", *flags])


def test_flags_and_yaml_add_up(tmp_path):
    (tmp_path / "run.yaml").write_text("optimizer: {name: sgd, options: {momentum: 0.9}}\n")
    found = train_arguments(["--config", "run.yaml", "--optimizer.options.nesterov", "true"]).run.optimizer
    assert (found.name, found.options) == ("sgd", {"momentum": 0.9, "nesterov": True})


ZERO = {
    "0": {"stage": 0},
    "2": {"stage": 2, "reduce_bucket_size": 1000},
    "2 offload": {"stage": 2, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu"}},
    "3": {"stage": 3, "reduce_bucket_size": 1000},
}


def scenario(of, zero):
    unmeasured = dataclasses.replace(of, trajectory=dataclasses.replace(of.trajectory, every=0))
    ds_config = {"zero_optimization": ZERO[zero], "bf16": {"enabled": True}}
    return Scenario(unmeasured, "run.yaml", ds_config, "zero.json", find_hardware("h100"))


def at_peak(of, zero):
    """The most that tensors hold, in bytes, and the number of parameters."""
    plan = scenario(of, zero).plan()
    device = plan.host if "offload" in zero else plan.gpu
    return device.allocated_peak_bytes, plan.parameters


def test_muon_keeps_one_tensor_of_the_blocks_matrices_and_two_of_all_others():
    for zero in ("0", "2", "2 offload"):
        plans = [scenario(run(None, name), zero).plan() for name in ("adamw", "muon")]
        states = [(plan.host if "offload" in zero else plan.gpu).breakdown["optimizer state"] for plan in plans]
        weights = run_parameters(scenario(run(None, "muon"), zero).sized())
        blocks = sum(weight.numel for weight in weights if weight.group == "blocks")
        assert 0.9 * sum(weight.numel for weight in weights) < blocks
        assert states[0] - states[1] == pytest.approx(4 * blocks, rel=0.01), zero


def test_muon_is_refused_where_every_matrix_is_cut():
    with pytest.raises(UserError, match="stage = 3, where every matrix is cut between the ranks"):
        scenario(run(None, "muon"), "3").sized()


@pytest.mark.parametrize("zero", ZERO)
def test_a_memory_plan_counts_the_tensors_that_the_state_keeps(zero):
    def at_save(run):
        return at_peak(run, zero)

    lion, n = at_save(run())
    more = at_save(run(None, "adamw", implementation="torch"))[0] - lion
    assert more == pytest.approx(4 * n, rel=0.01)
    assert at_save(run(grokfast=True))[0] - lion == pytest.approx(4 * n, rel=0.01)


def test_an_older_checkpoint_is_of_adamw(tmp_path):
    (tmp_path / "training_state.json").write_text('{"state": {}, "hooks": {}, "identity": {"seed": 0}}')
    read_training_state(tmp_path, {"seed": 0, "optimizer.name": "adamw"})
    with pytest.raises(UserError, match=r"saved with optimizer\.name adamw, this run has toy; give the saved value"):
        read_training_state(tmp_path, {"seed": 0, "optimizer.name": "toy"})
