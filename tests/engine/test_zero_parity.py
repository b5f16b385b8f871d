"""Every ZeRO stage, offload and AdamW implementation gives the trajectory of a plain PyTorch loop."""

import json
from pathlib import Path

import pytest
import torch

from genesis_ds.config import ModelConfig
from genesis_ds.data.tasks.lm import LanguageModelling
from genesis_ds.engine.deepspeed import parameter_groups
from genesis_ds.model.transformer import Transformer

from worker import GLOBAL_BATCH, LR, MODEL, SEQ_LEN  # isort: skip

SHIPPED = sorted(Path(__file__).parents[2].glob("ds_configs/*.json"))
OFFLOADING = ("zero2_offload", "zero3_offload")
STEPS = 50
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
OFFLOAD_ALL = {**OFFLOAD, "offload_param": {"device": "cpu"}}


def zero(stage, **offload):
    return {"zero_optimization": {"stage": stage, **({"reduce_bucket_size": 50000} if stage else {}), **offload}}


PARITY = [
    {"name": "zero0", "ds_config": zero(0)},
    {"name": "zero2", "ds_config": zero(2)},
    {"name": "zero2, offload, torch", "ds_config": zero(2, **OFFLOAD), "implementation": "torch"},
    {"name": "zero2, offload, cpu_adam", "ds_config": zero(2, **OFFLOAD), "implementation": "cpu_adam"},
    {
        "name": "zero2, offload, recomputed",
        "ds_config": zero(2, **OFFLOAD),
        "checkpointing": {"mode": "block", "offload": True},
    },
    {"name": "zero3", "ds_config": zero(3)},
    {"name": "zero3, offload, torch", "ds_config": zero(3, **OFFLOAD_ALL), "implementation": "torch"},
    {"name": "zero3, offload, cpu_adam", "ds_config": zero(3, **OFFLOAD_ALL), "implementation": "cpu_adam"},
    {"name": "zero3, offload, recomputed", "ds_config": zero(3, **OFFLOAD_ALL), "checkpointing": {"mode": "mlp"}},
]
RESUME = [
    {
        "name": "resume zero2",
        "ds_config": zero(2, **OFFLOAD),
        "implementation": "cpu_adam",
        "steps": 12,
        "resume": True,
    },
    {
        "name": "resume zero3",
        "ds_config": zero(3, **OFFLOAD_ALL),
        "implementation": "cpu_adam",
        "steps": 12,
        "resume": True,
    },
]


def shipped_cases():
    configs = {path.stem: json.loads(path.read_text()) for path in SHIPPED if path.stem != "zero3_nvme"}
    cases = [{"name": f"shipped {stem}", "ds_config": config, "steps": 20} for stem, config in configs.items()]
    bf16 = {"implementation": "cpu_adam", "precision": "bf16", "steps": 20}
    return [*cases, *({"name": f"bf16 {stem}", "ds_config": configs[stem], **bf16} for stem in OFFLOADING)]


@pytest.fixture(scope="module")
def reference(synthetic_token_set):
    """Losses of a plain PyTorch loop on whole global batches."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**MODEL))
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    task = LanguageModelling(synthetic_token_set, SEQ_LEN, seed=0)
    losses = []
    for step in range(STEPS):
        loss = model(**task.batch(range(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def results(request, train_cases):
    cases = [{"steps": STEPS, **case} for case in PARITY] + RESUME + shipped_cases()
    return train_cases(cases, request.param)


def test_every_stage_and_offload_follows_plain_pytorch(results, reference):
    assert reference[-1] < reference[0] - 0.5
    for case in PARITY:
        assert results[case["name"]]["losses"] == pytest.approx(reference, abs=1e-4), case["name"]


def test_a_resumed_engine_repeats_the_uninterrupted_losses_bit_for_bit(results):
    for case in RESUME:
        assert results[case["name"]]["resumed"] == results[case["name"]]["losses"], case["name"]


def test_every_shipped_ds_config_and_bf16_lower_the_loss(results):
    for case in shipped_cases():
        losses = results[case["name"]]["losses"]
        assert losses[-1] < losses[0] - 0.3, case["name"]


def test_the_weights_at_the_start_depend_on_the_seed_alone_also_in_bf16(results):
    first, second = (results[f"bf16 {stem}"]["losses"][0] for stem in OFFLOADING)
    assert first == second


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/include/libaio.h").exists(), reason="libaio-dev is not installed")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("implementation", ["cpu_adam", "torch"])
def test_the_shipped_nvme_ds_config_lowers_the_loss(train_cases, ranks, implementation, tmp_path):
    config = json.loads(next(path for path in SHIPPED if path.stem == "zero3_nvme").read_text())
    config["zero_optimization"]["offload_optimizer"]["nvme_path"] = str(tmp_path)
    case = {"name": "nvme", "ds_config": config, "steps": 20, "implementation": implementation}
    case["model"] = {"dim": 128, "intermediate_size": 512}  # DeepSpeed swaps tensors of at least 1 MiB
    losses = train_cases([case], ranks)["nvme"]["losses"]
    assert losses[-1] < losses[0] - 0.3
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.swp")) > 3 * 2**20
