"""Distillation follows a plain PyTorch loop with the same teacher, and goes on bit for bit with that teacher alone."""

import dataclasses
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_own_optimizer import STAGES
from test_train_command import records
from test_zero_parity import TASKS, plain_pytorch
from torch.nn import functional as F

from genesis_ds.config import ActivationCheckpointingConfig, BatchConfig, ModelShape, RunConfig
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.model.multitask import build_model
from genesis_ds.tokenizer import load_tokenizer

COMMON = {"n_heads": 4, "intermediate_size": 48, "vocab_size": 260, "max_seq_len": 128}
SHAPES = ({**COMMON, "n_layers": 1, "dim": 16, "norm": "rmsnorm"}, {**COMMON, "n_layers": 2, "dim": 48})
WEIGHT, TEMPERATURE, STEPS = 0.7, 2.0, 8
ZERO2 = ("--ds_config", "ds_configs/zero2.json")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Trained models, as it were: files of weights beside their runs' configurations -> decoders."""
    found = {}
    for seed, shape in enumerate(SHAPES):
        folder = tmp_path_factory.mktemp("teachers")
        torch.manual_seed(seed)
        model = build_model(ModelShape(**shape), ActivationCheckpointingConfig()).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)
        path = folder / "run/checkpoints/weights/step-00000001.safetensors"
        path.parent.mkdir(parents=True)
        save_file({name: weight.contiguous() for name, weight in model.named_parameters()}, path)
        run = RunConfig(model=ModelShape(**shape), batch=BatchConfig(seq_len=128))
        (folder / "run/config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(run)))
        found[path] = model.base
    return found


def plain_objective(models):
    """What is minimised, as the paper has it; the teacher's probabilities are the mean of its models'."""

    def objective(task, losses, logits, batch):
        if task.name != "lm":
            return losses.total
        with torch.no_grad():
            said = [(model(batch.inputs["tokens"]) / TEMPERATURE).softmax(-1) for model in models]
        student = (logits / TEMPERATURE).log_softmax(-1).flatten(0, 1)
        divergence = F.kl_div(student, torch.stack(said).mean(0).flatten(0, 1), reduction="batchmean")
        return (1 - WEIGHT) * losses.reported + WEIGHT * TEMPERATURE**2 * divergence

    return objective


@pytest.mark.parametrize(
    ("ranks", "stages"),
    [
        (2, ("zero2, offload", "zero3, offload")),
        pytest.param(1, tuple(STAGES), marks=pytest.mark.slow),
        pytest.param(2, tuple(STAGES), marks=pytest.mark.slow),
    ],
)
def test_it_follows_plain_pytorch_under_every_stage_and_is_resumed_bit_for_bit(
    train_cases, synthetic_token_set, teachers, ranks, stages
):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    common = {"tasks": TASKS, "steps": STEPS}
    expected = plain_pytorch(common, text, objective=plain_objective(teachers.values()))
    assert max(abs(a - b) for a, b in zip(expected, plain_pytorch(common, text), strict=True)) > 1e-2
    distill = {"teacher": [*map(str, teachers)], "weight": WEIGHT, "temperature": TEMPERATURE}
    cases = [{"name": stage, "ds_config": STAGES[stage], "distill": distill, **common} for stage in stages]
    resumed = [case | {"name": f"resumed {case['name']}", "resume": True} for case in cases]
    results = train_cases([*cases, *resumed], ranks)
    for case in cases:
        assert results[case["name"]]["losses"] == pytest.approx(expected, abs=1e-4), case["name"]
    for case in resumed:
        assert results[case["name"]]["resumed"] == results[case["name"]]["losses"], case["name"]


def test_a_run_goes_on_with_the_same_weights_as_teacher_alone(train_py, teachers, tmp_path):
    first, moved = next(iter(teachers)), tmp_path / "moved"
    shutil.copytree(first.parents[2], moved)
    here = moved / "checkpoints/weights/step-00000001.safetensors"
    common = ("--name", "student", "--tasks.lm", 1, *ZERO2)
    begun = train_py(*common, "--distill.teacher", f"[{first}]")
    assert begun.returncode == 0
    assert "teacher    computed on the host, in fp32" in begun.stdout
    told = records(tmp_path / "runs/student")[-1]
    assert told["train/distillation/lm"] > 0
    assert train_py(*common, "--distill.teacher", f"[{here}]", "--max_steps", 5).returncode == 0
    weights = load_file(here)
    weights["base.norm.weight"][0] += 1e-3
    save_file(weights, here)
    done = train_py(*common, "--distill.teacher", f"[{here}]", "--max_steps", 6)
    assert done.returncode == 2
    said = done.stdout.splitlines()[-1]
    assert "saved with distill.teacher (fingerprint) " in said
    assert f"give what distill.teacher had then ({here}) to continue" in said
