"""What docs/extending.md shows works. Tasks, hooks, optimizers and models are trained in tests/engine/test_own_*.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_ds.corpus.readers import import_path
from genesis_ds.ds_config import check, load_ds_config
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.load import hook_classes
from genesis_ds.optimizers.load import require_optimizer
from genesis_ds.tasks.load import require_tasks, trained
from genesis_ds.training.session import train_arguments

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/docs/examples"
TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
ZEFANIA = """<XMLBIBLE><BIBLEBOOK bnumber="1"><CHAPTER cnumber="1">
<VERS vnumber="1">In the <STYLE>beginning</STYLE></VERS><VERS vnumber="2">And the earth</VERS>
</CHAPTER></BIBLEBOOK></XMLBIBLE>"""


def test_its_yaml_names_classes_that_a_run_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    of_tasks, of_optimizer = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "tasks.yaml").write_text(of_tasks)
    run = train_arguments(["--config", str(tmp_path / "tasks.yaml")]).run
    require_tasks(run)
    assert trained(run) == ("lm", "reversal")
    assert [each.hook.__name__ for each in hook_classes(run) if each.name == "descent"] == ["Descent"]
    (tmp_path / "optimizer.yaml").write_text(of_optimizer)
    require_optimizer(train_arguments(["--config", str(tmp_path / "optimizer.yaml")]).run)


def test_a_format_of_ones_own_is_converted_to_a_table_that_is_imported(tmp_path):
    (tmp_path / "bible.xml").write_text(ZEFANIA, encoding="utf-8")
    words = [sys.executable, EXAMPLES / "zefania_to_table.py", "bible.xml", "en", "bible.jsonl"]
    subprocess.run(words, check=True, cwd=tmp_path)
    (translation,) = import_path(tmp_path / "bible.jsonl").translations
    assert translation.language == "en"
    assert dict(zip(translation.verse_ids.tolist(), translation.texts, strict=True)) == {
        1001001: "In the beginning",
        1001002: "And the earth",
    }


def test_the_ds_config_is_the_file_and_is_accepted():
    (shown,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert load_ds_config(EXAMPLES / "zero1.json") == json.loads(shown)
    assert check(json.loads(shown), "zero1.json") == []


@pytest.mark.parametrize(("given", "said"), re.findall(r"^\| `(\{.*\})` \| `(.*)` \|$", TEXT, re.MULTILINE))
def test_what_is_said_about_a_wrong_ds_config(given, said):
    with pytest.raises(UserError) as error:
        check(json.loads(given), "my.json")
    assert str(error.value) == f"my.json: {said}"


def test_another_tracker_is_a_hook(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.syspath_prepend(EXAMPLES)
    from wandb_hook import Wandb

    hook = Wandb(project="bible", mode="offline", name="tracked", dir=str(tmp_path))
    hook.on_step(StepRecord(1, 10, metrics={"train/loss": 2.0}, texts={"sample/en": "In the beginning"}))
    hook.on_step(StepRecord(2, 10))
    hook.on_step(StepRecord(3, 10, metrics={"train/loss": 1.5}))
    assert hook.run.step == 3
    hook.close()
    (written,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert written.read_bytes().count(b"train/loss") >= 2
    assert b"In the beginning" in written.read_bytes()
