"""How a run and its ds_config are merged: what is written, what is refused, and what is said."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from genesis_ds.ds_config import OptimizerSettings, Resolved, RunSettings, load_ds_config, resolve
from genesis_ds.errors import UserError

WHERE = "ds_configs/mine.json"
YAML = "launch/runs/quickstart.yaml"
ADAM = OptimizerSettings(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
RUN = RunSettings(where=YAML, micro_batch_size=4, global_batch_size=64, gradient_clipping=1.0, optimizer=ADAM)
BF16 = {"bf16": {"enabled": True}}
OFFLOAD = {"stage": 2, "reduce_bucket_size": 5e7, "offload_optimizer": {"device": "cpu"}}
SHIPPED = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))


def resolved(config: dict, run: RunSettings = RUN, **machine) -> Resolved:
    machine = {"world_size": 1, "accelerator": "cuda", "cpu_adam_available": True} | machine
    return resolve(config, where=WHERE, run=run, **machine)


def message(config: dict, run: RunSettings = RUN, **machine) -> str:
    with pytest.raises(UserError) as error:
        resolved(config, run, **machine)
    assert "\n" not in str(error.value)
    return str(error.value)


def implementation(kind: str) -> RunSettings:
    return replace(RUN, optimizer=replace(ADAM, implementation=kind))


def rounding_to_nearest(run: RunSettings) -> RunSettings:
    return replace(run, optimizer=replace(run.optimizer, master_rounding="nearest"))


def note(result: Resolved, part: str) -> str:
    found = [line for line in result.notes if part in line]
    assert len(found) == 1, result.notes
    assert "\n" not in found[0]
    return found[0]


def assert_names(text: str, *parts: str) -> None:
    assert [part for part in parts if part not in text] == []


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
    assert_names(note(result, "precision"), "bf16.bf16_master_weights_and_grads", "data_types.grad_accum_dtype")


# --- optimizer implementation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zero", "wanted", "accelerator", "available", "expected"),
    [
        (OFFLOAD, "auto", "cuda", True, "cpu_adam"),
        (OFFLOAD, "auto", "cuda", False, "torch"),
        (OFFLOAD, "auto", "cpu", True, "torch"),
        (OFFLOAD, "torch", "cuda", True, "torch"),
        (OFFLOAD, "cpu_adam", "cpu", True, "cpu_adam"),
        ({"stage": 2, "reduce_bucket_size": 5e7}, "auto", "cuda", True, "torch"),
    ],
)
def test_implementation(zero, wanted, accelerator, available, expected):
    result = resolved(
        {**BF16, "zero_optimization": zero},
        implementation(wanted),
        accelerator=accelerator,
        cpu_adam_available=available,
    )
    params = result.config["optimizer"]["params"]
    assert result.optimizer_implementation == expected
    assert params.get("torch_adam", False) == params.get("fused", False) == (expected == "torch")
    forced = result.config.get("zero_force_ds_cpu_optimizer", True)
    assert forced == (expected == "cpu_adam" or "offload_optimizer" not in zero)
    note(result, "optimizer torch.optim.AdamW" if expected == "torch" else "optimizer DeepSpeedCPUAdam")


def test_offload_without_a_compiler_says_what_is_lost_and_how_to_get_it():
    result = resolved({**BF16, "zero_optimization": OFFLOAD}, cpu_adam_available=False)
    assert_names(note(result, "DeepSpeedCPUAdam"), "lost", "bf16_optimizer_states", "apt install", "ninja")


def test_explicit_cpu_adam_without_a_compiler_is_refused():
    text = message({**BF16, "zero_optimization": OFFLOAD}, implementation("cpu_adam"), cpu_adam_available=False)
    assert_names(text, f'{YAML}: optimizer.implementation = "cpu_adam"', "cannot be built", "apt install")


@pytest.mark.parametrize("zero", [{"stage": 2}, {"stage": 2, "offload_optimizer": {"device": "none"}}])
def test_explicit_cpu_adam_without_offload_names_both_sides(zero):
    text = message({**BF16, "zero_optimization": zero}, implementation("cpu_adam"))
    assert_names(
        text, f'{YAML}: optimizer.implementation = "cpu_adam"', f"{WHERE}: zero_optimization.offload_optimizer"
    )


STATES = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
MASTER_AND_STATES = {"bf16": STATES, "zero_optimization": OFFLOAD}
MASTER = {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}, "zero_optimization": OFFLOAD}


def test_option_that_only_cpu_adam_serves_never_runs_on_torchs():
    key = "bf16.bf16_master_weights_and_grads = true"
    run, torch_run = rounding_to_nearest(RUN), rounding_to_nearest(implementation("torch"))
    assert resolved(MASTER, run).optimizer_implementation == "cpu_adam"
    assert_names(message(MASTER, run, cpu_adam_available=False), WHERE, key, "DeepSpeedCPUAdam", "apt install")
    assert_names(message(MASTER, torch_run), YAML, 'implementation = "torch"', WHERE, key)


def rounding(kind: str) -> RunSettings:
    return replace(RUN, optimizer=replace(ADAM, master_rounding=kind))


@pytest.mark.parametrize(
    ("asked", "chosen"), [("auto", "stochastic"), ("stochastic", "stochastic"), ("kahan", "kahan")]
)
def test_bf16_masters_and_moments_on_the_host_keep_small_updates(asked, chosen):
    result = resolved(MASTER_AND_STATES, rounding(asked))
    assert (result.master_rounding, result.rounds_masters) == (chosen, True)
    note(result, "master weights and moments bf16")
    on_a_cpu = resolved(MASTER_AND_STATES, rounding(asked), accelerator="cpu")
    assert (on_a_cpu.master_rounding, on_a_cpu.rounds_masters) == ("none", False)


def test_bf16_masters_that_lose_small_updates_are_taken_only_by_name():
    on_gpu = {**MASTER_AND_STATES, "zero_optimization": {"stage": 2, "reduce_bucket_size": 5e7}}
    for config, lacking in (
        (MASTER, "bf16.bf16_optimizer_states = true"),
        (on_gpu, 'zero_optimization.offload_optimizer.device = "cpu"'),
    ):
        for kind in ("auto", "kahan"):
            text = message(config, rounding(kind))
            assert_names(text, WHERE, f"only with {lacking}", f"master_rounding: nearest in {YAML}", "lost")
        assert resolved(config, rounding("nearest")).master_rounding == "nearest"
    assert_names(note(resolved(MASTER, rounding("nearest")), "rounded to the nearest"), "are lost")


@pytest.mark.parametrize("kind", ["nearest", "stochastic", "kahan"])
def test_a_rounding_without_bf16_masters_is_refused(kind):
    unused = message({**BF16, "zero_optimization": OFFLOAD}, rounding(kind))
    assert_names(unused, YAML, f'optimizer.master_rounding = "{kind}"', WHERE, "no bf16 master weights")
    assert resolved({**BF16, "zero_optimization": OFFLOAD}).master_rounding == "none"


OWN = replace(RUN, optimizer=replace(ADAM, name="toy_lion"))


@pytest.mark.parametrize("zero", [{"stage": 0}, {"stage": 2, "reduce_bucket_size": 5e7}, OFFLOAD])
def test_another_optimizer_is_handed_to_deepspeed_built(zero):
    result = resolved({"zero_optimization": zero}, OWN)
    assert "optimizer" not in result.config
    assert result.config["zero_allow_untested_optimizer"] is True
    assert result.config.get("zero_force_ds_cpu_optimizer", True) == ("offload_optimizer" not in zero)
    assert result.optimizer_implementation == "torch"
    assert_names(note(result, "optimizer toy_lion"), YAML, "zero_allow_untested_optimizer")


def test_a_ds_config_with_an_optimizer_of_its_own_names_both_sides():
    text = message({"optimizer": {"type": "AdamW"}}, OWN)
    assert_names(text, f'{WHERE}: optimizer.type = "AdamW"', f'{YAML}: optimizer.name = "toy_lion"', "remove")


def test_what_serves_adamw_alone_is_refused_with_another_optimizer(tmp_path):
    name = f'{YAML}: optimizer.name = "toy_lion"'
    assert_names(message(MASTER, rounding_to_nearest(OWN)), name, f"{WHERE}: bf16.bf16_master_weights_and_grads = true")
    assert_names(message(nvme(str(tmp_path)), OWN), name, 'zero_optimization.offload_optimizer.device = "nvme"')


# --- NVMe ------------------------------------------------------------------------------------------------------------


def nvme(path: str) -> dict:
    zero = {"stage": 3, "reduce_bucket_size": 2e7, "offload_optimizer": {"device": "nvme", "nvme_path": path}}
    return {**BF16, "zero_optimization": zero}


def test_bf16_masters_on_nvme_are_refused(tmp_path):
    assert_names(
        message({**nvme(str(tmp_path)), "bf16": STATES}), WHERE, "only with zero_optimization.offload_optimizer."
    )


REFUSED_ON_NVME = {"perpendicular_gradient": "has not been shown to be exact", "grokfast": "set lamb to 0 or"}


@pytest.mark.parametrize(("option", "complaint"), REFUSED_ON_NVME.items())
def test_what_changes_gradients_is_refused_where_the_optimizer_is_on_nvme(option, complaint, tmp_path):
    run = replace(RUN, optimizer=replace(ADAM, **{option: True}))
    assert complaint in message(nvme(str(tmp_path)), run)
    assert resolved({"zero_optimization": OFFLOAD, **BF16}, run).offload_optimizer == "cpu"


def test_nvme_path_becomes_absolute_and_is_not_created(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = resolved(nvme("a/swap"))
    assert result.nvme_paths == (tmp_path / "a" / "swap",)
    assert result.config["zero_optimization"]["offload_optimizer"]["nvme_path"] == str(tmp_path / "a" / "swap")
    assert not (tmp_path / "a").exists()
    assert_names(note(result, "wear"), "28 bytes per parameter")


def test_one_directory_for_both_offloads_is_named_once(tmp_path):
    config = nvme(str(tmp_path))
    config["zero_optimization"]["offload_param"] = {"device": "nvme", "nvme_path": str(tmp_path)}
    result = resolved(config)
    assert result.nvme_paths == (tmp_path,)
    assert (result.offload_optimizer, result.offload_param) == ("nvme", "nvme")


def test_nvme_path_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "swap")
    assert_names(message(nvme(path)), WHERE, "offload_optimizer.nvme_path", path, "is not a directory")


def test_nvme_path_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    assert_names(message(nvme(str(tmp_path))), WHERE, "offload_optimizer.nvme_path", "is not writable")


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
