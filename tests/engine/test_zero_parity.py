"""Every ZeRO stage, offload and AdamW implementation gives the trajectory of a plain PyTorch loop."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from genesis_ds.config import ActivationCheckpointingConfig
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.run_data import Text
from genesis_ds.engine.engine import parameter_groups
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import build_model
from genesis_ds.optimizers.load import make_optimizer
from genesis_ds.tasks.load import make_heads
from genesis_ds.tasks.mixture import Mixture
from genesis_ds.tasks.noise import NoiseSource
from genesis_ds.tasks.positions import micro_batches
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.tasks import open_tasks

from worker import SLOT, run_of  # isort: skip

SHIPPED = sorted(Path(__file__).parents[2].glob("ds_configs/*.json"))
OFFLOADING = ("zero2_offload", "zero3_offload")
STEPS, FEWER = 50, 24
"""A tenth more or less of the weight decay, or a hundredth of the learning rate, is beyond the tolerance by step 11."""
SHORT = 12
"""Where the loss has to fall and is compared with nothing."""
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
    *(
        {
            "name": f"zero{stage}, offload, {mode}",
            "ds_config": zero(stage, **offload),
            "checkpointing": {"mode": mode, "loss_chunk": chunk},
        }
        for stage, offload in ((2, OFFLOAD), (3, OFFLOAD_ALL))
        for mode, chunk in (("swiglu", 50), ("elementwise", 128))
    ),
]
TASKS = {"lm": 2, "coherence": 1, "cross_reference": 1, "paraphrase": 1}
VERSE_STEPS = 10
OF_ALL_TASKS = {"tasks": TASKS, "steps": VERSE_STEPS, "slot": 2}
"""A slot is one micro-batch, so that two ranks compute different tasks at the same time."""
MULTITASK = [
    case | {"name": f"all tasks, {case['name']}"} | OF_ALL_TASKS
    for case in PARITY
    if "checkpointing" not in case and case.get("implementation") != "torch"
]
NAIVE = [
    case | {"name": f"naive, {case['name']}", "naive": True, "slot": SLOT}
    for case in MULTITASK
    if case["name"] in ("all tasks, zero2, offload, cpu_adam", "all tasks, zero3")
]
GROKFAST = {"alpha": 0.9, "lamb": 2.0}
GROKKING = [
    case
    | {"name": f"grokking, {case['name']}", "tasks": TASKS, "steps": 6}
    | {"grokfast": GROKFAST, "weight_decay": 1.0, "measure": True}
    | {"weight_decay_of": {"norms": 2.0, "coherence": 5.0}, "schedule": {"weight_decay_end_ratio": 20.0}}
    for case in PARITY
    if "checkpointing" not in case
]
PERPENDICULAR = [
    case
    | {"name": f"perpendicular, {case['name']}", "tasks": TASKS, "steps": 6, "weight_decay": 0.0, "perpendicular": True}
    | {"model": {"probabilities": "stablemax"}}
    for case in PARITY
    if "checkpointing" not in case and case.get("implementation") != "torch"
]
LATE = {"lm": 6, "coherence": 1, "paraphrase": 1}
"""With seed 0 coherence and paraphrase have their first turns in steps 3 and 4."""
RESUME = [
    {
        "name": f"resume zero{stage}, {when}",
        "ds_config": zero(stage, **offload),
        "implementation": "cpu_adam",
        "resume": True,
        "grokfast": GROKFAST,
        "checkpointing": {"mode": mode, "loss_chunk": 50},
        **more,
    }
    for stage, offload, mode in ((2, OFFLOAD, "swiglu"), (3, OFFLOAD_ALL, "elementwise"))
    for when, more in (("all heads used", {"tasks": TASKS, "steps": 8}), ("none", {"tasks": LATE, "steps": 5}))
]
ALL_PARTITIONED = {"stage3_param_persistence_threshold": 0}
"""Norms as well, which ZeRO-3 leaves whole otherwise in so small a model."""
BF16 = [
    {"name": f"bf16, {name}", "ds_config": config, "precision": "bf16", "steps": SHORT, "model": model, **more}
    for name, config, model, more in (
        ("zero2", zero(2), {}, {}),
        ("zero3", zero(3, **ALL_PARTITIONED), {}, {}),
        ("zero2, fp32 stream", zero(2), {"fp32_residual": True}, {}),
        ("zero3, fp32 stream", zero(3, **ALL_PARTITIONED), {"fp32_residual": True}, {"checkpointing": {"mode": "mlp"}}),
        (
            "zero3, fp32 stream, rmsnorm",
            zero(3, **ALL_PARTITIONED),
            {"fp32_residual": True, "norm": "rmsnorm"},
            {"checkpointing": {"mode": "block"}},
        ),
    )
]


def shipped_cases():
    configs = {path.stem: json.loads(path.read_text()) for path in SHIPPED if path.stem != "zero3_nvme"}
    cases = [{"name": f"shipped {stem}", "ds_config": config, "steps": SHORT} for stem, config in configs.items()]
    bf16 = {"implementation": "cpu_adam", "precision": "bf16", "steps": SHORT, "measure": True}
    return [*cases, *({"name": f"bf16 {stem}", "ds_config": configs[stem], **bf16} for stem in OFFLOADING)]


def plain_pytorch(
    case, text, after_step=lambda step, model: None, objective=lambda task, losses, logits, batch: losses.total
):
    """Losses of a plain PyTorch loop over the same micro-batches; optimizers skip what has no gradient."""
    run = run_of(case)
    training = open_tasks(run, text, Ranks(0, 0, 1))
    torch.manual_seed(0)
    # In evaluation mode the model leaves unused heads alone; otherwise the two modes are the same.
    heads = partial(make_heads, run, training.heads)
    model = build_model(run.model, ActivationCheckpointingConfig(), heads).eval()
    optimizer = make_optimizer(run, parameter_groups(model, run.optimizer.weight_decay_of))
    first_decays = [group["weight_decay"] for group in optimizer.param_groups]
    averages = {}
    n, micro = run.batch.global_batch_size, run.batch.micro_batch_size
    losses = []
    for step in range(case["steps"]):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        sizes = {
            "global_batch_size": n,
            "micro_batch_size": micro,
            "rank": 0,
            "world_size": 1,
            "noise": NoiseSource(run),
        }
        for task, batch in micro_batches(training.mixture, training.tasks, step * n, step=step, **sizes):
            output = model(task.name, **batch.inputs).output
            found = task.losses(output, batch)
            (objective(task, found, output, batch) * micro / n).backward()
            total += found.reported.item() * micro / n
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if "grokfast" in case:
            filter_gradients(model, averages, **case["grokfast"])
        if case.get("perpendicular"):
            turn_gradients(model)
        for group, decay in zip(optimizer.param_groups, first_decays, strict=True):
            share = step / (case["steps"] - 1)
            group["weight_decay"] = decay * (1 - share + share * run.schedule.weight_decay_end_ratio)
        optimizer.step()
        after_step(step, model)
        losses.append(total)
    return losses


def filter_gradients(model, averages, alpha, lamb):
    """Grokfast-EMA as its authors publish it (arXiv 2405.20233, gradfilter_ema), but after clipping."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            average = averages.get(name, parameter.grad.detach())
            averages[name] = average * alpha + parameter.grad.detach() * (1 - alpha)
            parameter.grad = parameter.grad + averages[name] * lamb


@torch.no_grad()
def turn_gradients(model):
    """The authors' code of the perpendicular gradient (arXiv 2501.04697), for each parameter."""
    for w in model.parameters():
        if w.grad is not None:
            turned = w.grad - (w * w.grad).sum() / ((w * w).sum() + 1e-30) * w
            w.grad = turned * (w.grad.norm() / (turned.norm() + 1e-30))


@pytest.fixture(scope="module")
def references(synthetic_token_set):
    text = Text(load_tokenizer("bytes"), synthetic_token_set, synthetic_corpus().cross_references)
    cases = {"lm": {"steps": STEPS}, "all": OF_ALL_TASKS, "naive": NAIVE[0], "grokking": GROKKING[0]}
    cases["perpendicular"] = PERPENDICULAR[0]
    return {name: plain_pytorch(case, text) for name, case in cases.items()}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, STEPS), marks=pytest.mark.slow, id="1 rank"),
        pytest.param((2, STEPS), marks=pytest.mark.slow, id="2 ranks, all steps"),
        pytest.param((2, FEWER), id="2 ranks"),
    ],
)
def results(request, train_cases):
    ranks, steps = request.param
    cases = [{"steps": steps, **case} for case in (*PARITY, *MULTITASK, *NAIVE)]
    return train_cases([*cases, *GROKKING, *PERPENDICULAR, *RESUME, *BF16, *shipped_cases()], ranks)


def test_every_stage_and_offload_follows_plain_pytorch(results, references):
    assert references["lm"][FEWER - 1] < references["lm"][0] - 0.5
    for case in PARITY:
        losses = results[case["name"]]["losses"]
        assert len(losses) >= FEWER
        assert losses == pytest.approx(references["lm"][: len(losses)], abs=1e-4), case["name"]


def test_heads_that_a_step_does_not_use_stay_as_in_plain_pytorch(results, references):
    for case in MULTITASK:
        assert results[case["name"]]["losses"] == pytest.approx(references["all"], abs=1e-4), case["name"]


def test_grokfast_and_strong_weight_decay_follow_plain_pytorch(results, references):
    for case in GROKKING:
        assert results[case["name"]]["losses"] == pytest.approx(references["grokking"], abs=1e-4), case["name"]


def test_the_perpendicular_gradient_and_stablemax_follow_plain_pytorch(results, references):
    for case in PERPENDICULAR:
        assert results[case["name"]]["losses"] == pytest.approx(references["perpendicular"], abs=1e-5), case["name"]


def test_the_norms_of_a_step_are_those_of_whole_gradients_and_of_what_the_weights_become(results):
    bf16 = [f"bf16 {stem}" for stem in OFFLOADING]
    for name in [*(case["name"] for case in GROKKING), *bf16]:
        assert_measured(results[name])


def assert_measured(result):
    assert len(result["measured"]) >= 6
    for measured, witnessed in zip(result["measured"], result["witnessed"], strict=True):
        for key in ("weights", "gradients", "updates"):
            assert measured[key] == pytest.approx(witnessed[key], rel=2e-5), key
        assert measured["cosine"] == pytest.approx(witnessed["cosine"], abs=1e-4)


def test_a_loop_that_knows_nothing_of_heads_drifts_away(results, references):
    for case in NAIVE:
        losses = results[case["name"]]["losses"]
        assert max(abs(a - b) for a, b in zip(losses, references["naive"], strict=True)) > 1e-3, case["name"]


def test_a_resumed_engine_repeats_the_uninterrupted_losses_bit_for_bit(results):
    """Also where the checkpoint, after half of the steps, was saved before a head's first use."""
    first_steps = [Mixture.begin(LATE, SLOT, seed=0).locate(position)[0] for position in range(0, 32, SLOT)]
    assert first_steps == ["lm", "lm", "lm", "lm", "paraphrase", "lm", "coherence", "lm"]
    for case in RESUME:
        assert results[case["name"]]["resumed"] == results[case["name"]]["losses"], case["name"]


def test_every_shipped_ds_config_and_bf16_lower_the_loss(results):
    for case in (*BF16, *shipped_cases()):
        losses = results[case["name"]]["losses"]
        assert losses[-1] < losses[0] - 0.3, case["name"]


def test_the_weights_at_the_start_depend_on_the_seed_alone_also_in_bf16(results):
    first, second = (results[f"bf16 {stem}"]["losses"][0] for stem in OFFLOADING)
    assert first == second


@pytest.mark.parametrize("stream", ["", ", fp32 stream"])
def test_in_bf16_partitioned_norms_train_as_whole_ones_do(results, stream):
    whole, partitioned = (results[f"bf16, zero{stage}{stream}"]["losses"] for stage in (2, 3))
    assert partitioned[0] == whole[0]
    assert partitioned == pytest.approx(whole, abs=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/include/libaio.h").exists(), reason="libaio-dev is not installed")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("implementation", ["cpu_adam", "torch"])
def test_the_shipped_nvme_ds_config_lowers_the_loss(train_cases, ranks, implementation, tmp_path):
    config = json.loads(next(path for path in SHIPPED if path.stem == "zero3_nvme").read_text())
    config["zero_optimization"]["offload_optimizer"]["nvme_path"] = str(tmp_path)
    case = {"name": "nvme", "ds_config": config, "steps": 20, "implementation": implementation}
    case["model"] = {"dim": 128, "intermediate_size": 512}  # DeepSpeed swaps tensors of at least 1 MiB
    case["measure"] = True
    result = train_cases([case], ranks)["nvme"]
    assert result["losses"][-1] < result["losses"][0] - 0.3
    assert_measured(result)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.swp")) > 3 * 2**20
