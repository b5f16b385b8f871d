"""Tasks of a user's own: what `extensions.tasks` may name, and what is said where it may not."""

import dataclasses
import sys
from pathlib import Path

import pytest

from genesis_ds.config import ExtensionsConfig, ModelShape, RunConfig
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import find_hardware
from genesis_ds.memory.scenario import Scenario
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.tasks import load, registry
from genesis_ds.training.session import train_arguments

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
TOY = "toy_task:Reversal"
HEAD = """import torch, toy_task
class Reversal(toy_task.Reversal):
    @classmethod
    def head(cls, dim, options):
        return Head(dim, options)
class Head(type(toy_task.Reversal.head(8, None))):
    def __init__(self, dim, options):
        super().__init__(dim)
        """
MODULES = {
    "broken": "class Reversal(\n",
    "failing": "raise RuntimeError('no card')\n",
    "plain": "class Reversal:\n    name = 'reversal'\n",
    "partial_task": "from genesis_ds.tasks.base import Task\nclass Reversal(Task):\n    name = 'reversal'\n",
    "buffered": f"{HEAD}self.register_buffer('seen', torch.zeros(1))\n",
    "tied": f"{HEAD}self.one = self.two = torch.nn.Parameter(torch.zeros(2))\n"
    "    def forward(self, *inputs):\n        return super().forward(*inputs) + self.one.sum()\n",
    "idle": f"{HEAD}self.more = torch.nn.Linear(2, 2)\n",
    "triple": f"{HEAD}self.forward = lambda states, examples: states[examples.view(-1, 3)]\n",
    "bound": "import toy_task\nclass Reversal(toy_task.Reversal):\n    def head(self, dim, options):\n        pass\n",
    "renamed": "from toy_task import Reversal as Toy\nclass Reversal(Toy):\n    name = 'turned'\n",
}


@pytest.fixture(autouse=True)
def in_a_directory_with_modules(tmp_path, monkeypatch):
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "toy_task.py").write_text((EXAMPLES / "toy_task.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in (*MODULES, "toy_task"):
        sys.modules.pop(name, None)


def run(path=TOY, name="reversal", **weights):
    shape = ModelShape(vocab_size=260, dim=16, n_heads=2)
    return RunConfig(extensions=ExtensionsConfig({name: path}), tasks=weights or {name: 1.0}, model=shape)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:Reversal", "nowhere:Reversal cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("toy_task:Revers", "toy_task.py has no Revers; did you mean 'Reversal'"),
        ("broken:Reversal", "broken:Reversal cannot be imported: SyntaxError"),
        ("failing:Reversal", "cannot be imported: RuntimeError: no card; `python -c 'import failing'` shows where"),
        ("plain:Reversal", "plain:Reversal is no task; derive it from genesis_ds.tasks.base.Task"),
        ("toy_task:ROWS", "toy_task:ROWS is no task"),
        ("partial_task:Reversal", "partial_task:Reversal lacks batch, build, loss; genesis_ds.tasks.base says"),
        ("buffered:Reversal", "the head keeps the buffer seen, which checkpoints do not hold"),
        ("idle:Reversal", "the head does not use more.weight of one vector [1, D]; give every weight a part"),
        (
            "triple:Reversal",
            "does not take one vector [1, D] and examples [[0, 0]], as it is given in the micro-batches",
        ),
        ("bound:Reversal", "head of Reversal is no class method; put @classmethod over it"),
        ("renamed:Reversal", "renamed:Reversal has the name 'turned'; give it name = 'reversal'"),
    ],
)
def test_a_class_that_cannot_be_had_is_one_line_with_its_key(path, message):
    with pytest.raises(UserError) as caught:
        load.require_tasks(run(path))
    assert str(caught.value).startswith("extensions.tasks.reversal: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_may_tie_its_weights():
    load.require_tasks(run("tied:Reversal"))


@pytest.mark.parametrize("name", ["lm", "norms", "states", "items", "my-task"])
def test_a_name_that_has_a_meaning_is_refused(name):
    with pytest.raises(UserError, match=rf"extensions\.tasks\.{name}: {name} is "):
        load.require_tasks(run(name=name))


def test_one_without_a_weight_is_refused_with_its_line():
    text = f"tasks: {{lm: 1.0}}\nextensions:\n  tasks:\n    reversal: {TOY}\n"
    Path("run.yaml").write_text(text)
    given = train_arguments(["--config", "run.yaml"])
    with (
        pytest.raises(UserError, match=r"run\.yaml: line 4: extensions\.tasks\.reversal: has no weight"),
        given.locating(),
    ):
        load.require_tasks(given.run)
    load.require_tasks(train_arguments(["--config", "run.yaml", "--tasks.reversal", "0"]).run)


def test_a_path_must_name_a_module_and_a_class():
    with pytest.raises(UserError, match=r"extensions\.tasks\.reversal: toy\.py is not allowed; give module:Class"):
        run("toy.py")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("tasks:\n  lm: 1\n  coherense: 1\n", (), "line 3: unknown key 'tasks.coherense'; did you mean 'coherence'?"),
        ("tasks:\n  reversed: 1\nextensions:\n  tasks: {reversal: a:B}\n", (), "line 2: .*did you mean 'reversal'?"),
        ("", ("--tasks.paraphrases", "1"), "unknown argument --tasks.paraphrases; did you mean '--tasks.paraphrase'?"),
        ("tasks:\n  lm: much\n", (), "line 2: tasks.lm: 'much' is not a valid value; give a number or null"),
        ("tasks: 3\n", (), "line 1: tasks is a section of keys, not 3"),
        ("extensions:\n  tasks:\n    a: b\n", (), "line 3: extensions.tasks.a: b is not allowed; give module:Class"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(tmp_path, text, flags, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        train_arguments(["--config", "run.yaml", *flags])


def test_flags_and_yaml_add_up_and_null_is_no_weight(tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"tasks: {{lm: 0.7, coherence: 0.3, paraphrase: null}}\nextensions: {{tasks: {{reversal: {TOY}}}}}\n"
    )
    found = train_arguments(["--config", "run.yaml", "--tasks.reversal=0.5", "--tasks.coherence", "0"]).run
    assert found.tasks == {"lm": 0.7, "coherence": 0.0, "reversal": 0.5}
    assert load.trained(found) == ("lm", "reversal")


def test_help_lists_the_built_in_tasks(capsys):
    with pytest.raises(SystemExit):
        train_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, entry in registry.TASKS.items():
        assert f"--tasks.{name} ({entry.weight:g}): {entry.about}" in shown


def test_one_line_of_the_registry_makes_a_task_built_in(monkeypatch):
    monkeypatch.setitem(registry.TASKS, "reversal", registry.Entry(TOY, 0.1, "whether a row is reversed"))
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    built_in = RunConfig(tasks={"lm": 1.0, "reversal": 1.0})
    assert load.trained(built_in) == ("lm", "reversal")
    assert list(load.meta_heads(built_in, ("lm", "reversal"))) == ["reversal"]


def test_a_memory_plan_counts_the_weights_and_activations_of_an_own_head():
    own = run(lm=1.0, reversal=1.0)
    scenario = Scenario(own, "run.yaml", {"zero_optimization": {"stage": 2}}, "zero2.json", find_hardware("h100"))
    (weight,) = [parameter for parameter in run_parameters(scenario.sized()) if parameter.group == "reversal"]
    assert (weight.name, weight.shape) == ("heads.reversal.output.weight", (1, own.model.dim))
    plan = scenario.plan()
    alone = dataclasses.replace(scenario, run=run(lm=1.0)).plan()
    assert plan.parameters == alone.parameters + own.model.dim
    assert plan.notes == []
    assert alone.notes == []
