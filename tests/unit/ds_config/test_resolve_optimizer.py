"""Which optimizer a run and its ds_config get, what is refused with it, and where NVMe holds its states."""

from dataclasses import replace

import pytest
from helpers.resolving import (
    ADAM,
    BF16,
    OFFLOAD,
    RUN,
    WHERE,
    YAML,
    assert_names,
    implementation,
    message,
    note,
    resolved,
    rounding_to_nearest,
)

from genesis_ds.ds_config import RunSettings


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
