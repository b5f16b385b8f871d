"""What docs/extending.md shows is there, and its YAML is one that a run takes."""

import re
from pathlib import Path

from genesis_ds.hooks.load import hook_classes
from genesis_ds.optimizers.load import require_optimizer
from genesis_ds.tasks.load import require_tasks, trained
from genesis_ds.training.session import train_arguments

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def test_every_file_that_is_named_is_there():
    named = set(re.findall(r"`((?:tests/docs/)?[\w/]+\.py)`", TEXT))
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists() and not (ROOT / "genesis_ds" / path).exists()] == []


def test_its_yaml_is_one_that_a_run_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "tests/docs/examples")
    of_tasks, of_optimizer = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "tasks.yaml").write_text(of_tasks)
    run = train_arguments(["--config", str(tmp_path / "tasks.yaml")]).run
    require_tasks(run)
    assert trained(run) == ("lm", "reversal")
    assert [each.hook.__name__ for each in hook_classes(run) if each.name == "descent"] == ["Descent"]
    (tmp_path / "optimizer.yaml").write_text(of_optimizer)
    require_optimizer(train_arguments(["--config", str(tmp_path / "optimizer.yaml")]).run)
