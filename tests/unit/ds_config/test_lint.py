"""What lint refuses, what it remarks on, and that each message names file, key, value and remedy."""

import json
from pathlib import Path

import pytest

from genesis_ds.ds_config import check, lint
from genesis_ds.errors import UserError

WHERE = "ds_configs/mine.json"
SHIPPED = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))


def fatal(config: dict) -> list[str]:
    return [str(finding) for finding in lint(config, WHERE) if finding.fatal]


def remarks(config: dict) -> list[str]:
    return [str(finding) for finding in lint(config, WHERE) if not finding.fatal]


def zero(**keys) -> dict:
    return {"zero_optimization": keys}


def offload(device: str, **keys) -> dict:
    return {"device": device, **keys}


def assert_one(messages: list[str], *parts: str) -> None:
    assert len(messages) == 1, messages
    assert "\n" not in messages[0]
    for part in (WHERE, *parts):
        assert part in messages[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_file_is_clean_and_says_no_auto(path):
    assert lint(json.loads(path.read_text()), str(path)) == []
    assert "auto" not in path.read_text()


def test_all_seven_files_are_shipped():
    names = [
        "zero2",
        "zero2_offload",
        "zero2_offload_bf16",
        "zero3",
        "zero3_nvme",
        "zero3_offload",
        "zero3_offload_bf16",
    ]
    assert [path.stem for path in SHIPPED] == names


@pytest.mark.parametrize(
    ("config", "key", "meant"),
    [
        ({"zero_optimisation": {}}, "zero_optimisation", "'zero_optimization'"),
        (zero(reduce_bucket=1), "zero_optimization.reduce_bucket", "'reduce_bucket_size'"),
        (zero(offload_optimizer={"devcie": "cpu"}), "zero_optimization.offload_optimizer.devcie", "'device'"),
        ({"activation_checkpointing": {"cpu_checkpoint": True}}, "activation_checkpointing.cpu_checkpoint", "cpu_che"),
        ({"checkpoint": {"load_universl": True}}, "checkpoint.load_universl", "'load_universal'"),
        ({"aio": {"blocksize": 1}}, "aio.blocksize", "'block_size'"),
        ({"data_types": {"grad_accum_type": "fp32"}}, "data_types.grad_accum_type", "'grad_accum_dtype'"),
        ({"flops_profiler": {"enable": True}}, "flops_profiler.enable", "'enabled'"),
        ({"torch_autocast": {"enable": True}}, "torch_autocast.enable", "'enabled'"),
        ({"timers": {"throughput": {"synchronised": True}}}, "timers.throughput.synchronised", "'synchronized'"),
        ({"optimizer": {"params": {"learning_rate": 1.0}}}, "optimizer.params.learning_rate", "betas, eps, lr"),
    ],
)
def test_unknown_key_at_any_level_names_the_nearest(config, key, meant):
    assert_one(fatal(config), f"{key}: unknown key", meant)


@pytest.mark.parametrize(
    ("config", "key", "allowed"),
    [
        (zero(stage="2"), 'zero_optimization.stage = "2"', "one of 0, 1, 2, 3"),
        (zero(stage=4), "zero_optimization.stage = 4", "one of 0, 1, 2, 3"),
        (zero(stage=True), "zero_optimization.stage = true", "one of 0, 1, 2, 3"),
        (zero(reduce_bucket_size=0), "zero_optimization.reduce_bucket_size = 0", "a whole number above 0"),
        (zero(reduce_bucket_size=0.5), "zero_optimization.reduce_bucket_size = 0.5", "a whole number above 0"),
        (zero(reduce_bucket_size="5e7"), 'reduce_bucket_size = "5e7"', "a whole number above 0"),
        (zero(overlap_comm=1), "zero_optimization.overlap_comm = 1", "true or false"),
        (zero(offload_optimizer="cpu"), 'zero_optimization.offload_optimizer = "cpu"', "an object {...}"),
        (zero(offload_optimizer=offload("gpu")), 'device = "gpu"', 'one of "none", "cpu", "nvme"'),
        (zero(stage=3, offload_optimizer=offload("cpu", ratio=1.5)), "ratio = 1.5", "at least 0 and at most 1"),
        ({"zero_optimization": True}, "zero_optimization = true", "an object {...}"),
        ({"bf16": {"enabled": "true"}}, 'bf16.enabled = "true"', "true or false"),
        ({"bf16": {"enabled": None}}, "bf16.enabled = null", "true or false"),
        ({"bf16": None}, "bf16 = null", "an object {...}"),
        ({"data_types": {"grad_accum_dtype": "fp16"}}, 'data_types.grad_accum_dtype = "fp16"', '"bf16"'),
        ({"gradient_clipping": -1}, "gradient_clipping = -1", 'a number at least 0 or "auto"'),
        ({"gradient_clipping": float("nan")}, "gradient_clipping = NaN", "a number"),
        ({"optimizer": {"params": {"betas": [0.9]}}}, "optimizer.params.betas = [0.9]", "a list of two numbers"),
    ],
)
def test_wrong_type_or_range_says_what_is_allowed(config, key, allowed):
    assert_one(fatal(config), key, "must be", allowed)


@pytest.mark.parametrize("value", [5e7, 50_000_000])
def test_whole_number_may_be_written_in_scientific_notation(value):
    assert lint(zero(stage=2, reduce_bucket_size=value), WHERE) == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (zero(stage=3, stage3_prefetch_bucket_size="auto"), "zero_optimization.stage3_prefetch_bucket_size"),
        (zero(stage=3, reduce_bucket_size="auto"), "zero_optimization.reduce_bucket_size"),
        (zero(stage=2, offload_optimizer={"device": "auto"}), "zero_optimization.offload_optimizer.device"),
        ({"bf16": {"enabled": "auto"}}, "bf16.enabled"),
    ],
)
def test_auto_is_refused_where_deepspeed_would_drop_it(config, key):
    assert_one(fatal(config), f'{key} = "auto"', "takes its own default", "write ")


def test_auto_is_accepted_where_the_runs_yaml_decides():
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")},
        "data_types": {"keep_in_fp32_modules": "auto"},
    }
    assert lint(config, WHERE) == []


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (zero(stage=2, offload_param=offload("cpu")), ("offload_param", '{"device": "cpu"}', "stage 3", "stage is 2")),
        (zero(stage=0, offload_optimizer=offload("cpu")), ("offload_optimizer", "stage 1, 2 or 3", "stage is 0")),
        (zero(stage=1, sub_group_size=2e8), ("sub_group_size = 200000000.0", "stage 3", "stage is 1")),
        (zero(stage=2, stage3_max_live_parameters=1), ("stage3_max_live_parameters = 1", "stage 3", "stage is 2")),
        (zero(stage=2, stage3_gather_16bit_weights_on_model_save=True), ("stage3_gather_16bit", "= true")),
        (zero(stage=3, allgather_bucket_size=1), ("allgather_bucket_size = 1", "stage 1 or 2", "stage is 3")),
        (zero(stage=3, round_robin_gradients=True), ("round_robin_gradients = true", "stage 1 or 2", "stage is 3")),
        (zero(stage=3, ignore_unused_parameters=False), ("ignore_unused_parameters = false", "stage is 3")),
        (zero(stage=2, allgather_partitions=False), ("allgather_partitions = false", "no code of DeepSpeed")),
        (zero(stage=0, reduce_bucket_size=1), ("reduce_bucket_size = 1", "stage is 0")),
        (
            zero(stage=2, offload_optimizer=offload("cpu", nvme_path="x")),
            ("offload_optimizer.nvme_path", "nvme", '"cpu"'),
        ),
        (
            zero(stage=3, offload_param=offload("cpu", max_in_cpu=1)),
            ("offload_param.max_in_cpu = 1", 'device is "cpu"'),
        ),
        ({"aio": {"queue_depth": 16}}, ("aio = ", "nvme")),
        ({"bf16": {"enabled": True, "check_grad_overflow": False}, **zero(stage=3)}, ("check_grad_overflow", "is 3")),
        ({"bf16": {"enabled": True, "immediate_grad_update": True}, **zero(stage=2)}, ("immediate_grad_update",)),
        ({"disable_allgather": True}, ("disable_allgather = true",)),
        ({"dataloader_drop_last": True}, ("dataloader_drop_last = true",)),
    ],
)
def test_setting_that_deepspeed_would_ignore_is_refused(config, parts):
    assert_one(fatal(config), "ignored", "remove it", *parts)


@pytest.mark.parametrize(
    "config",
    [
        zero(stage=2, allgather_partitions=True),
        zero(stage=2, offload_param=offload("none")),
        zero(stage=2, sub_group_size=1e9),
        zero(stage=3, allgather_bucket_size=5e8),
    ],
)
def test_ignored_setting_that_repeats_the_default_is_only_a_remark(config):
    assert fatal(config) == []
    assert_one(remarks(config), "ignored", "nothing is lost")


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (
            zero(stage=2, offload_optimizer=offload("nvme", nvme_path="x")),
            ('offload_optimizer.device = "nvme"', "keeps it in RAM at stage 2", "stage 3"),
        ),
        (zero(stage=3, offload_optimizer=offload("nvme")), ("offload_optimizer.nvme_path", "missing", "nvme_swap")),
        (
            zero(stage=2, offload_optimizer=offload("cpu", ratio=0.5)),
            ("offload_optimizer.ratio = 0.5", "an optimizer of its own"),
        ),
        ({"bf16": {"enabled": True}, "torch_autocast": {"enabled": True}}, ("bf16.enabled", "torch_autocast.enabled")),
        ({"bf16": {"enabled": True, "check_grad_overflow": False}, **zero(stage=2)}, ("check_grad_overflow", "false")),
        (zero(stage=1, compute_grad_norm=False), ("zero_optimization.compute_grad_norm", "false")),
        (
            {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
            ('data_types.grad_accum_dtype = "fp32"', "stage 0", "bf16"),
        ),
        (
            {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}, **zero(stage=2)},
            ("bf16_master_weights_and_grads", "offload_optimizer.device"),
        ),
        (
            {"bf16": {"enabled": True, "bf16_optimizer_states": True}, **zero(stage=2)},
            ("bf16_optimizer_states", "bf16_master_weights_and_grads = true"),
        ),
    ],
)
def test_contradiction_names_both_settings(config, parts):
    assert_one(fatal(config), *parts)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"scheduler": {"type": "WarmupLR"}}, (": scheduler: ", "run's YAML owns")),
        ({"fp16": {"enabled": True}}, ("fp16.enabled = true", '"bf16": {"enabled": true}')),
        ({"elasticity": {}}, (": elasticity: ", "no longer has it")),
        ({"amp": {}}, (": amp: ", "no longer has it")),
        ({"pipeline": {}}, (": pipeline: ", "no pipeline parallelism")),
        ({"autotuning": {}}, ("autotuning", "does not drive")),
        ({"tensor_parallel": {}}, ("tensor_parallel", "does not drive")),
        ({"bfloat16": {}}, ("bfloat16", '"bf16"')),
        (zero(cpu_offload=True), ("cpu_offload", '"offload_optimizer": {"device": "cpu"}')),
        (zero(prefetch_bucket_size=1), ("prefetch_bucket_size", '"stage3_prefetch_bucket_size"')),
        (zero(zenflow={}), ("zero_optimization.zenflow: ", "is not driven here")),
        (zero(mics_shard_size=1), ("mics_shard_size", "no longer has it")),
        ({"compile": {"deepcompile": True}}, ("compile.deepcompile = true",)),
        (
            {"optimizer": {"params": {"torch_adam": True}}},
            ("optimizer.params.torch_adam", "chooses the implementation"),
        ),
        ({"optimizer": {"params": {"max_grad_norm": 1}}}, ("max_grad_norm", "gradient_clipping")),
    ],
)
def test_section_that_the_trainer_does_not_use_is_refused_with_the_reason(config, parts):
    assert_one(fatal(config), *parts)


def test_disabled_fp16_beside_bf16_is_accepted():
    assert lint({"fp16": {"enabled": False}, "bf16": {"enabled": True}}, WHERE) == []


def test_pipelined_nvme_with_too_few_buffers_is_remarked():
    optimizer = offload("nvme", nvme_path="x", pipeline_read=True)
    assert_one(remarks(zero(stage=3, offload_optimizer=optimizer)), "buffer_count = 4", "up to 8", "write 8")


def test_check_raises_one_line_that_names_the_other_wrong_keys():
    with pytest.raises(UserError) as error:
        check({"zero_optimisation": {}, "bf16": {"enable": True}}, WHERE)
    assert str(error.value).startswith(f"{WHERE}: zero_optimisation: unknown key")
    assert "also wrong: bf16.enable)" in str(error.value)
    assert "\n" not in str(error.value)
