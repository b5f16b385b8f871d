"""Muon under DeepSpeed is torch's Muon and AdamW in a plain loop, bit for bit, also where ranks share a matrix."""

import hashlib

import numpy as np
import pytest
import torch
from test_zero_parity import GROKFAST, LATE, OFFLOAD, zero

from genesis_ds.config import ActivationCheckpointingConfig
from genesis_ds.engine.engine import parameter_groups
from genesis_ds.model.multitask import LM, build_model
from genesis_ds.optimizers.registry import BLOCKS
from genesis_ds.tasks.lm import as_batch, cross_entropy

from worker import run_of  # isort: skip

STEPS, LR, MOMENTUM = 4, 3e-3, 0.9
STAGES = {
    "zero0": zero(0),
    "zero1": zero(1),
    "zero2": zero(2),
    "zero2, round robin": zero(2, round_robin_gradients=True),
    "zero2, offload": zero(2, **OFFLOAD),
}
MUON = {"name": "muon", "lr": LR, "options": {"momentum": MOMENTUM}}
SAME = {"same_batches": True, "steps": STEPS, "optimizer": {**MUON, "gradient_clipping": 0.0}}
"""A norm is added up in another order on other ranks."""
RESUME = {"resume": True, "tasks": LATE, "steps": 6, "optimizer": MUON, "grokfast": GROKFAST, "measure": True}
BF16 = {
    "zero0": zero(0),
    "zero1, fp32 gradients": {**zero(1), "data_types": {"grad_accum_dtype": "fp32"}},
    "zero2, offload": zero(2, **OFFLOAD),
}
PARTS = 3_000
"""Elements of a group: a block has more, so that there are many groups, and a matrix is cut in most."""


def cases():
    found = [{"name": name, "ds_config": config, **SAME} for name, config in STAGES.items()]
    found += [{"name": f"{name}, small groups", "ds_config": STAGES[name], "largest_group": PARTS, **SAME}
              for name in ("zero1", "zero2", "zero2, offload")]  # fmt: skip
    found += [{"name": f"resume, {name}", "ds_config": STAGES[name], **RESUME} for name in ("zero0", "zero2, offload")]
    for name, config in BF16.items():
        found.append(
            {"name": f"bf16, {name}", "ds_config": config, "precision": "bf16", "steps": 10, "optimizer": MUON}
        )
    return found


@pytest.fixture(scope="module")
def results(train_cases):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the bits of a sum depend on it
        return {ranks: train_cases(cases(), ranks) for ranks in (1, 2)}


def plain_bits():
    """Hashes of the weights after each step of a plain loop on one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = run_of({"steps": STEPS})
    torch.manual_seed(run.seed)
    model = build_model(run.model, ActivationCheckpointingConfig())
    groups = parameter_groups(model, separates_blocks=True)
    of_blocks = [weight for group in groups if group["name"] == BLOCKS for weight in group["params"]]
    assert len(of_blocks) == 3 * 7
    others = [
        {"params": group["params"], "weight_decay": group.get("weight_decay", 0.1)}
        for group in groups
        if group["name"] != BLOCKS
    ]
    muon = torch.optim.Muon(of_blocks, lr=LR, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", weight_decay=0.1)
    adamw = torch.optim.AdamW(others, lr=LR, betas=(0.9, 0.95), fused=True)
    hashes = []
    for step in range(STEPS):
        drawn = np.random.default_rng(step).integers(run.model.vocab_size, size=(4, run.batch.seq_len + 1))
        inputs = as_batch(drawn)
        model.zero_grad(set_to_none=True)
        cross_entropy(model(LM, **inputs.inputs).output, inputs.labels["targets"]).backward()
        muon.step()
        adamw.step()
        hashes.append(
            {
                name: hashlib.blake2b(weight.detach().view(torch.int8).numpy(), digest_size=8).hexdigest()
                for name, weight in model.named_parameters()
            }
        )
    torch.set_num_threads(n_threads)
    return hashes


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_follows_torchs_muon_and_adamw_bit_for_bit(results, ranks):
    expected = plain_bits()
    for name, found in results[ranks].items():
        if "bits" in found:
            for step, (own, plain) in enumerate(zip(found["bits"], expected, strict=True)):
                assert [key for key in plain if own[key] != plain[key]] == [], (name, step)


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_learns_in_bf16_by_all_of_deepspeeds_optimizers(results, ranks):
    for name, found in results[ranks].items():
        if name.startswith("bf16"):
            assert found["losses"][-1] < found["losses"][0] - 0.3, name


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_repeats_the_uninterrupted_losses_bit_for_bit(results, ranks):
    for name, found in results[ranks].items():
        if name.startswith("resume"):
            assert found["resumed"] == found["losses"], name
