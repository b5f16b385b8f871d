"""A run that begins with weights of the earlier Genesis Arbiter code, and what comes out of its checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file

from genesis_ds import metrics
from genesis_ds.checkpoint.load.sources import open_model
from genesis_ds.checkpoint.models import export, legacy
from genesis_ds.config.parse import OwnFlags, parse_arguments
from genesis_ds.data.run_data import prepare_data
from genesis_ds.engine.ranks import Ranks
from genesis_ds.tasks.positions import micro_batches
from genesis_ds.training.tasks import open_tasks

LEGACY = "tests/data/legacy_deepnorm"
SHAPE = {"n_layers": 4, "dim": 48, "n_heads": 6, "intermediate_size": 192, "max_seq_len": 64}
LEAN = ("--samples.new_tokens", 0, "--evaluation.max_windows", 1, "--grokking.rule", "none", "--seed", 1)


@torch.no_grad()
def first_loss(directory, ranks):
    """Return the earlier model's loss on the language modelling of a run's first step."""
    run = parse_arguments(["--config", str(directory / "config.yaml")], OwnFlags(), "", "").run
    training = open_tasks(run, prepare_data(run), Ranks(0, 0, ranks))
    model, at_once = legacy.load_model(LEGACY), run.batch.micro_batch_size * ranks
    sizes = {"global_batch_size": run.batch.global_batch_size, "micro_batch_size": at_once}
    batches = micro_batches(training.mixture, training.tasks, 0, step=0, **sizes, rank=0, world_size=1)
    losses = [float(task.loss(model(batch.inputs["tokens"]), batch)[0]) for task, batch in batches if task.name == "lm"]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("stage", "ranks"), [pytest.param("zero2", 1, marks=pytest.mark.slow), ("zero3_offload", 2)])
def test_a_run_begins_with_legacy_weights_and_its_checkpoint_exports_what_the_engine_has(
    train_py, tmp_path, stage, ranks
):
    shape = [word for key, value in SHAPE.items() for word in (f"--model.{key}", value)]
    tasks = ("--tasks.lm", 1, "--tasks.coherence", 1)
    kept = ("--max_steps", 2, "--checkpoint.weights_per_decade", 1)
    config = ("--ds_config", f"ds_configs/{stage}.json", "--init_from", LEGACY)
    done = train_py("--name", "own", *shape, *tasks, *kept, *config, *LEAN, ranks=ranks)
    assert done.returncode == 0, done.stdout
    assert f"init       weights of {LEGACY}/model.safetensors\n" in done.stdout
    assert "init       the heads of coherence begin anew" in done.stdout
    run = tmp_path / "runs/own"
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first[metrics.of_task(metrics.TRAIN_LOSS, "lm")] == pytest.approx(first_loss(run, ranks), abs=1e-5)

    export.export(run / "checkpoints/step-00000002", tmp_path / "whole", "safetensors")
    export.export(run / "checkpoints/weights/step-00000002.safetensors", tmp_path / "gathered", "safetensors")
    whole, gathered = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "gathered"))
    assert whole.keys() == gathered.keys() > {"heads.coherence.output.weight"}
    assert all(torch.equal(weight, gathered[name]) for name, weight in whole.items())
    tokens = torch.arange(100).view(2, 50)
    trained, same = (open_model(tmp_path / name).decoder()(tokens) for name in ("whole", "gathered"))
    assert torch.equal(trained, same)
    assert not torch.equal(trained, legacy.load_model(LEGACY)(tokens))
    about = json.loads((tmp_path / "whole/config.json").read_text())
    assert about["global_step"] == 2
    assert about["tokenizer"].keys() == {"kind", "path", "fingerprint"}
