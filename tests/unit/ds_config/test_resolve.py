"""How a run and its ds_config are merged: what is written, what is refused, and what is said."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.resolving import (
    BF16,
    OFFLOAD,
    RUN,
    WHERE,
    YAML,
    assert_names,
    message,
    note,
    resolved,
    rounding_to_nearest,
)

from genesis_ds.ds_config import load_ds_config

SHIPPED = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))


# --- batch sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micro", "total", "ranks", "steps"), [(4, 64, 1, 16), (4, 64, 2, 8), (8, 8, 1, 1), (1, 6, 3, 2)]
)
def test_accumulation_follows_from_the_batch_sizes(micro, total, ranks, steps):
    run = replace(RUN, micro_batch_size=micro, global_batch_size=total)
    result = resolved(BF16, run, world_size=ranks)
    assert result.gradient_accumulation_steps == steps
    config = result.config
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * ranks == total
    assert config["train_batch_size"] == total
    assert_names(
        note(result, "gradient_accumulation_steps"),
        f"gradient_accumulation_steps {steps} = batch.global_batch_size {total} /",
    )


@pytest.mark.parametrize(
    ("micro", "total", "ranks", "parts"),
    [
        (
            5,
            64,
            2,
            ("batch.micro_batch_size for 2 ranks: 1, 2, 4, 8, 16, 32", "nearest batch.global_batch_size: 60 or 70"),
        ),
        (4, 64, 3, ("ranks for batch.micro_batch_size 4: 1, 2, 4, 8, 16", "nearest batch.global_batch_size: 60 or 72")),
        (8, 4, 1, ("batch.micro_batch_size for 1 rank: 1, 2, 4", "nearest batch.global_batch_size: 8")),
    ],
)
def test_batch_that_does_not_divide_names_the_valid_values(micro, total, ranks, parts):
    run = replace(RUN, micro_batch_size=micro, global_batch_size=total)
    assert_names(message(BF16, run, world_size=ranks), YAML, f"batch.global_batch_size = {total}", *parts)


# --- what the run's YAML owns ----------------------------------------------------------------------------------------


OWNED = [
    ({"train_micro_batch_size_per_gpu": 4}, {"train_micro_batch_size_per_gpu": 8}, "batch.micro_batch_size", "4"),
    ({"train_batch_size": 64}, {"train_batch_size": 32}, "batch.global_batch_size", "64"),
    (
        {"gradient_accumulation_steps": 16},
        {"gradient_accumulation_steps": 2},
        "batch.global_batch_size / (batch.micro",
        "16",
    ),
    ({"gradient_clipping": 1}, {"gradient_clipping": 0.5}, "optimizer.gradient_clipping", "1.0"),
    ({"optimizer": {"params": {"lr": 3e-4}}}, {"optimizer": {"params": {"lr": 1.0}}}, "optimizer.lr", "0.0003"),
    (
        {"optimizer": {"params": {"betas": [0.9, 0.95]}}},
        {"optimizer": {"params": {"betas": [0.9, 0.99]}}},
        "optimizer.betas",
        "[0.9, 0.95]",
    ),
]


@pytest.mark.parametrize("same", [same for same, *_ in OWNED])
def test_key_that_the_run_owns_may_say_the_same(same):
    assert resolved(same).config == resolved({}).config


@pytest.mark.parametrize(("other", "run_key", "value"), [case[1:] for case in OWNED])
def test_key_that_the_run_owns_may_not_say_something_else(other, run_key, value):
    text = message(other)
    assert text.startswith(f"{WHERE}: ")
    given = next(iter(other.values()))
    given = next(iter(given["params"].values())) if isinstance(given, dict) else given
    assert_names(text, f"= {json.dumps(given)}, but {YAML}: {run_key}", f"= {value}", "remove")


def test_auto_takes_the_runs_values():
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "Adam", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    }
    result = resolved(config)
    assert result.config == resolved({}).config
    assert "auto" not in json.dumps(result.config)
    assert result.config["gradient_clipping"] == 1.0
    params = result.config["optimizer"]["params"]
    assert {key: params[key] for key in ("lr", "betas", "eps", "weight_decay")} == {
        "lr": 3e-4,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.1,
    }


def test_other_optimizer_is_refused():
    assert_names(message({"optimizer": {"type": "Lamb"}}), WHERE, 'optimizer.type = "Lamb"', "AdamW", YAML)


def test_clipping_is_always_written_because_deepspeed_clips_at_one_by_default():
    assert resolved({}, replace(RUN, gradient_clipping=0.0)).config["gradient_clipping"] == 0.0


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "wanted", "accelerator", "precision"),
    [
        (BF16, "auto", "cuda", "bf16"),
        ({}, "auto", "cuda", "fp32"),
        ({"bf16": {"enabled": False}}, "auto", "cuda", "fp32"),
        ({}, "bf16", "cuda", "bf16"),
        ({"bf16": {"enabled": False}}, "fp32", "cuda", "fp32"),
        (BF16, "auto", "cpu", "fp32"),
        (BF16, "bf16", "cpu", "bf16"),
        (BF16, "fp32", "cpu", "fp32"),
        ({"torch_autocast": {"enabled": True, "dtype": "bf16"}}, "auto", "cuda", "fp32"),
    ],
)
def test_precision_follows_run_and_ds_config(config, wanted, accelerator, precision):
    result = resolved(config, replace(RUN, precision=wanted), accelerator=accelerator)
    assert result.precision == precision
    assert result.config.get("bf16", {}).get("enabled", False) == (precision == "bf16")
    assert note(result, "precision").startswith(f"precision {precision}")


@pytest.mark.parametrize(
    ("config", "wanted", "accelerator", "enabled"),
    [
        (BF16, "fp32", "cuda", "true"),
        ({"bf16": {"enabled": False}}, "bf16", "cuda", "false"),
        ({"bf16": {"enabled": False}}, "bf16", "cpu", "false"),
    ],
)
def test_contradicting_precisions_name_both_sides(config, wanted, accelerator, enabled):
    text = message(config, replace(RUN, precision=wanted), accelerator=accelerator)
    assert_names(
        text, f'{YAML}: precision = "{wanted}"', f"{WHERE}: bf16.enabled = {enabled}", 'set precision to "auto"'
    )


def test_bf16_run_with_autocast_names_both_sides():
    text = message({"torch_autocast": {"enabled": True}}, replace(RUN, precision="bf16"))
    assert_names(text, YAML, 'precision = "bf16"', WHERE, "torch_autocast.enabled = true")


def test_cpu_run_drops_what_needs_bf16_and_says_so():
    config = {
        "bf16": {"enabled": True, "bf16_master_weights_and_grads": True},
        "data_types": {"grad_accum_dtype": "bf16"},
        "communication_data_type": "bf16",
        "zero_optimization": OFFLOAD,
    }
    result = resolved(config, rounding_to_nearest(RUN), accelerator="cpu", cpu_adam_available=False)
    assert result.config["bf16"] == {"enabled": False}
    assert result.config["data_types"] == {}
    assert "communication_data_type" not in result.config
    dropped = ("bf16.bf16_master_weights_and_grads", "data_types.grad_accum_dtype", "optimizer.master_rounding")
    assert_names(note(result, "precision"), *dropped)


# --- notes and the whole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "gib"), [(BF16, "0.93 GiB"), ({}, "1.86 GiB")])
def test_default_bucket_is_noted_with_its_cost(config, gib):
    result = resolved({**config, "zero_optimization": {"stage": 2}})
    assert_names(note(result, "reduce_bucket_size"), WHERE, "5e+08", gib, "5e7")


def test_fp32_accumulation_with_offload_is_noted_with_its_cost():
    config = {**BF16, "zero_optimization": OFFLOAD, "data_types": {"grad_accum_dtype": "fp32"}}
    assert_names(note(resolved(config), "grad_accum_dtype"), WHERE, '"fp32"', "4 bytes per parameter", "once a step")


def test_activation_checkpointing_section_is_noted_key_by_key():
    section = {"cpu_checkpointing": True, "number_checkpoints": 4}
    result = resolved({**BF16, "activation_checkpointing": section})
    for key, value in section.items():
        line = note(result, f"activation_checkpointing.{key}")
        assert_names(line, WHERE, f"= {json.dumps(value)}", "no effect", f"activation_checkpointing in {YAML} decides")


def test_lint_runs_first_and_its_remarks_are_notes():
    assert "unknown key" in message({"zero_optimisation": {}})
    config = {"zero_optimization": {"stage": 2, "allgather_partitions": True}}
    assert_names(note(resolved(config), "allgather_partitions"), WHERE, "ignored")


def test_throughput_timer_is_off_unless_given():
    assert resolved({}).config["timers"] == {"throughput": {"enabled": False}}
    given = {"timers": {"throughput": {"enabled": True}}}
    assert resolved(given).config["timers"] == given["timers"]


def test_arguments_are_left_alone():
    config = {"zero_optimization": OFFLOAD, **BF16}
    before = copy.deepcopy(config)
    resolved(config, accelerator="cpu")
    assert config == before


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_file_resolves_and_keeps_its_zero_section(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_ds_config(path)
    result = resolved(config)
    assert result.precision == "bf16"
    assert result.zero_stage == config["zero_optimization"]["stage"]
    expected = copy.deepcopy(config["zero_optimization"])
    if path.stem == "zero3_nvme":
        expected["offload_optimizer"]["nvme_path"] = str(tmp_path / "nvme_swap")
    assert result.config["zero_optimization"] == expected
    assert not any("is not set" in line for line in result.notes)
