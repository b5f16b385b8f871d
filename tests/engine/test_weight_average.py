"""The average of the weights is that of torch.optim.swa_utils, is resumed exactly, and changes nothing in training."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_own_optimizer import STAGES
from test_train_command import records
from test_zero_parity import LATE, TASKS, plain_pytorch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn
from worker import average_batch

from genesis_ds.checkpoint.command import export_model
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import WEIGHT_AVERAGE
from genesis_ds.tasks.lm import cross_entropy
from genesis_ds.tokenizer import load_tokenizer

STEPS = 8
COMMON = {"tasks": TASKS, "steps": STEPS, "weight_decay": 0.5, "schedule": {"weight_decay_end_ratio": 20.0}}
KINDS = {
    "ema": {"kind": "ema", "decay": 0.7},
    "swa": {"kind": "swa", "start": 2, "every": 2},
}
OF_TORCH = {"ema": get_ema_multi_avg_fn(0.7), "swa": get_swa_multi_avg_fn()}


def reference(kind, text):
    """Losses of training, and of torch's average after each step."""
    of_average, batch, models = [], average_batch(), []

    def after_step(step, model):
        given = KINDS[kind]
        since, every = step - given.get("start", 0), given.get("every", 1)
        if not models:
            models.append(AveragedModel(copy.deepcopy(model), multi_avg_fn=OF_TORCH[kind]))
        if since >= 0 and since % every == 0:
            models[0].update_parameters(model)
        if since < 0:
            of_average.append(None)
            return
        with torch.no_grad():
            output = models[0].module("lm", batch.inputs["tokens"]).output
        of_average.append(float(cross_entropy(output, batch.labels["targets"])))

    losses = plain_pytorch(COMMON, text, after_step)
    return losses, of_average


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (2, ("zero2, offload", "zero3, offload")),
        pytest.param(1, tuple(STAGES), marks=pytest.mark.slow),
        pytest.param(2, tuple(STAGES), marks=pytest.mark.slow),
    ],
)
def test_it_is_torchs_under_every_stage_and_is_resumed_bit_for_bit(train_cases, synthetic_token_set, ranks, stages):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    expected = {kind: reference(kind, text) for kind in KINDS}
    cases = [
        {"name": f"{kind}, {stage}", "ds_config": STAGES[stage], "weight_average": given, **COMMON}
        for kind, given in KINDS.items()
        for stage in stages
    ]
    resumed = [case | {"name": f"resumed {case['name']}", "tasks": LATE, "resume": True} for case in cases]
    without = [{k: v for k, v in resumed[0].items() if k != "weight_average"} | {"name": "without"}]
    skipped = {"weight_average": {"kind": "swa"}, "ds_config": STAGES[stages[-1]], **COMMON}
    after_a_skip = [
        skipped | {"name": "skipped", "save": True, "fault": {"pass": 1, "rank": 0, "of": "loss", "factor": "inf"}},
        skipped | {"name": "after a skip", "restore": "skipped"},
        skipped | {"name": "without one from there", "restore": "skipped", "weight_average": {}},
    ]
    results = train_cases([*cases, *resumed, *without, *after_a_skip], ranks)
    for case in cases:
        losses, of_average = expected[case["name"].split(",")[0]]
        found = results[case["name"]]
        assert found["losses"] == pytest.approx(losses, abs=1e-4), case["name"]
        before = of_average.count(None)
        assert found["average"][:before] == of_average[:before]
        assert found["average"][before:] == pytest.approx(of_average[before:], abs=1e-4), case["name"]
        assert len(set(found["average"][before:])) > 2
    for case in resumed:
        found = results[case["name"]]
        assert found["resumed"] == found["losses"], case["name"]
        assert found["resumed_average"] == found["average"][STEPS // 2 :], case["name"]
    assert results["skipped"]["skipped"] == 1
    assert results["after a skip"]["average"] == results["skipped"]["average"][STEPS // 2 :]
    for name, kept in (("after a skip", True), ("without one from there", False)):
        files = ZeroFiles(next(Path(results[name]["directory"]).rglob("step-*")))
        assert any(WEIGHT_AVERAGE in files.state_keys(weight) for weight in files.names) == kept
    assert results["without"]["losses"] == results[resumed[0]["name"]]["losses"]


def test_it_is_judged_beside_the_weights_and_exported_by_choice(train_py, tmp_path):
    averaged = ("--optimizer.weight_average.kind", "ema", "--optimizer.weight_average.decay", 0.5)
    done = train_py("--name", "averaged", *averaged, "--ds_config", "ds_configs/zero2.json", "--evaluation.every", 2)
    assert done.returncode == 0, done.stdout[-4000:]
    judged = next(record for record in records(tmp_path / "runs/averaged") if record["global_step"] == 2)
    names = [name for name in judged if name.endswith("/bits_per_byte") and name.startswith("val/")]
    assert names
    assert all(judged[f"{name}/averaged"] != judged[name] for name in names)
    export_model(str(tmp_path / "runs/averaged"), str(tmp_path / "average"), "safetensors", "fp32", average=True)
    files = ZeroFiles(tmp_path / "runs/averaged/checkpoints/step-00000004")
    exported = load_file(tmp_path / "average/model.safetensors")
    for name in files.names:
        assert torch.equal(exported[name.removeprefix("base.")], files.average(name)), name
        assert torch.equal(files.average(name), files.weight(name)) == (not files.state(name)), name


def test_a_run_without_an_average_has_none_to_export(train_py, tmp_path):
    assert train_py("--name", "plain", "--max_steps", 1).returncode == 0
    with pytest.raises(UserError, match=r"step-00000001: has no average of its weights.*optimizer\.weight_average"):
        export_model(str(tmp_path / "runs/plain"), str(tmp_path / "out"), "safetensors", "fp32", average=True)
    assert not (tmp_path / "out").exists()
