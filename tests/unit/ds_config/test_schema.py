"""The tables against DeepSpeed itself: every key and default, and every file that we ship."""

import json
import logging
from enum import Enum
from pathlib import Path

import pytest

from genesis_ds.ds_config import OptimizerSettings, RunSettings, load_ds_config, resolve, rules, schema
from genesis_ds.ds_config.schema import Table

deepspeed = pytest.importorskip("deepspeed", minversion="0.19.8")

from deepspeed.comm.config import CommsLoggerConfig  # noqa: E402
from deepspeed.compile.config import CompileConfig  # noqa: E402
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig  # noqa: E402
from deepspeed.runtime import config as ds  # noqa: E402
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config  # noqa: E402
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: E402
from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig  # noqa: E402
from deepspeed.runtime.zero.offload_config import (  # noqa: E402
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from deepspeed.utils.config import DeepSpeedThroughputTimerConfig  # noqa: E402

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

SHIPPED = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))

MODELS = [
    (schema.OFFLOAD_PARAM, DeepSpeedZeroOffloadParamConfig),
    (schema.OFFLOAD_OPTIMIZER, DeepSpeedZeroOffloadOptimizerConfig),
    (schema.BF16, DeepSpeedBF16Config),
    (schema.FP16, DeepSpeedFP16Config),
    (schema.FILE_MONITOR, TensorBoardConfig),
    (schema.FILE_MONITOR, CSVConfig),
    (schema.WANDB, WandbConfig),
    (schema.COMET, CometConfig),
    (schema.COMMS_LOGGER, CommsLoggerConfig),
    (schema.COMPILE, CompileConfig),
    (schema.THROUGHPUT, DeepSpeedThroughputTimerConfig),
]


def defaults(model) -> dict:
    """A pydantic model's defaults under the documented names (aliases)."""
    found = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        found[field.alias or name] = value.value if isinstance(value, Enum) else value
    return found


def of(table: Table) -> dict:
    return {name: key.default for name, key in table.items()}


class Recorder(dict):
    """A dict that remembers which keys a reader asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self):
        return self


def asked_keys(section: str, filled: dict) -> set:
    """The keys of one section that DeepSpeed reads while it builds its configuration."""
    recorder = Recorder(filled)
    ds.DeepSpeedConfig({"train_batch_size": 1, section: recorder})
    return recorder.asked


@pytest.mark.parametrize(("table", "model"), MODELS, ids=[model.__name__ for _, model in MODELS])
def test_section_has_the_keys_and_defaults_of_deepspeeds_class(table, model):
    assert of(table) == defaults(model)


def test_zero_optimization_has_deepspeeds_keys_and_defaults_once_refused_names_are_added():
    theirs = defaults(DeepSpeedZeroConfig)
    refused = {name.removeprefix("zero_optimization.") for name in rules.REFUSED}
    assert set(theirs) - set(schema.ZERO) <= refused
    assert set(schema.ZERO) <= set(theirs)
    ours = {name: key.default for name, key in schema.ZERO.items() if name != "leaf_module"}
    assert ours == {name: theirs[name] for name in ours}
    assert set(schema.LEAF_MODULE) == set(defaults(DeepSpeedZeroLeafModuleConfig))


def test_each_alias_of_deepspeed_is_refused_under_its_second_name():
    for name, field in DeepSpeedZeroConfig.model_fields.items():
        if field.alias and field.alias != name:
            assert f'"{field.alias}"' in rules.REFUSED[f"zero_optimization.{name}"]


@pytest.mark.parametrize(("table", "model"), [*MODELS, (schema.ZERO, DeepSpeedZeroConfig)])
def test_every_bound_is_deepspeeds_bound(table, model):
    for name, field in model.model_fields.items():
        key = table.get(field.alias or name)
        theirs = {type(bound).__name__: getattr(bound, type(bound).__name__.lower(), None) for bound in field.metadata}
        if key is not None and theirs:
            ours = {"Ge": key.at_least, "Le": key.at_most, "Gt": key.above}
            assert {kind: bound for kind, bound in ours.items() if bound is not None} == theirs, name


def test_top_level_has_every_key_that_deepspeed_reads():
    recorder = Recorder({"train_batch_size": 1})
    ds.DeepSpeedConfig(recorder)
    read_when_parallel = {"sequence_parallel_size", "data_parallel_size"}  # deepspeed/__init__.py:545
    refused = {name for name in rules.REFUSED if "." not in name}
    assert recorder.asked | read_when_parallel == set(schema.TOP) | refused


def test_every_removed_section_is_refused():
    assert set(ds._REMOVED_TOP_LEVEL_CONFIG_KEYS) <= set(rules.REFUSED)
    assert {f"zero_optimization.{name}" for name in ds._REMOVED_ZERO_CONFIG_KEYS} <= set(rules.REFUSED)


def test_top_level_defaults_are_deepspeeds():
    theirs = vars(ds.DeepSpeedConfig({"train_micro_batch_size_per_gpu": 1}))
    set_by_deepspeed = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    scalars = {name: key for name, key in schema.TOP.items() if key.kind != "section" and name not in set_by_deepspeed}
    compared = {name for name in scalars if name in theirs}
    assert set(scalars) - compared == {"vocabulary_size"}  # read only for a warning
    assert {name: scalars[name].default for name in compared} == {name: theirs[name] for name in compared}


@pytest.mark.parametrize(
    ("section", "filled"),
    [
        ("activation_checkpointing", {}),
        ("aio", {}),
        ("flops_profiler", {}),
        ("data_types", {}),
        ("checkpoint", {}),
        ("torch_autocast", {"dtype": "bf16", "lower_precision_safe_modules": []}),
        ("optimizer", {"type": "AdamW"}),
        ("timers", {}),
    ],
)
def test_section_without_a_class_has_the_keys_that_deepspeed_reads(section, filled):
    assert asked_keys(section, filled) == set(schema.TOP[section].keys)


def test_checkpoint_writer_has_the_keys_and_defaults_that_deepspeed_reads():
    writer = Recorder()
    config = ds.DeepSpeedConfig({"train_batch_size": 1, "checkpoint": {"writer": writer}})
    assert writer.asked == set(schema.CHECKPOINT_WRITER)
    assert config.checkpoint_config["writer"] == of(schema.CHECKPOINT_WRITER)


def test_sections_without_a_class_have_deepspeeds_defaults():
    config = ds.DeepSpeedConfig({"train_batch_size": 1, "checkpoint": {}, "aio": {}, "flops_profiler": {}})
    assert of(schema.AIO) == config.aio_config
    assert of(schema.FLOPS_PROFILER) == vars(config.flops_profiler_config)
    assert of(schema.ACTIVATION_CHECKPOINTING) == vars(config.activation_checkpointing_config)
    assert of(schema.DATA_TYPES) == {name: getattr(config, name) for name in schema.DATA_TYPES}
    torch_autocast = {name: getattr(config, f"torch_autocast_{name}") for name in schema.TORCH_AUTOCAST}
    assert of(schema.TORCH_AUTOCAST) == torch_autocast
    saving = dict(config.checkpoint_config)
    for name in ("tag_validation", "checkpoint_serialization", "writer"):
        assert schema.CHECKPOINT[name].default == saving[name]
    assert schema.CHECKPOINT["load_universal"].default == config.load_universal_checkpoint
    assert schema.CHECKPOINT["use_node_local_storage"].default == config.use_node_local_storage
    assert schema.CHECKPOINT["parallel_write"].keys["pipeline_stage"].default == (
        config.checkpoint_parallel_write_pipeline
    )


def test_every_dtype_is_one_that_deepspeed_knows():
    assert {str(ds.DtypeEnum(name).value) for name in schema.DTYPES} == {"torch.bfloat16", "torch.float32"}


def test_every_zero_key_has_a_stage_or_is_never_read():
    read = set(rules.ZERO_STAGES) | {name.removeprefix("zero_optimization.") for name in rules.NEVER_READ}
    assert set(schema.ZERO) - read - {"stage", "legacy_stage1"} == set()
    assert set(rules.ZERO_STAGES) <= set(schema.ZERO)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_deepspeed_accepts_each_shipped_file_with_a_batch_size(path):
    config = ds.DeepSpeedConfig({**json.loads(path.read_text()), "train_micro_batch_size_per_gpu": 1})
    assert config.zero_optimization_stage == int(path.stem.removeprefix("zero")[0])
    assert config.bfloat16_config.enabled


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_deepspeed_reads_from_a_resolved_file_what_the_run_says(path):
    adam = OptimizerSettings(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    run = RunSettings("run.yaml", micro_batch_size=4, global_batch_size=64, gradient_clipping=0.5, optimizer=adam)
    resolved = resolve(
        load_ds_config(path), where=str(path), run=run, world_size=1, accelerator="cuda", cpu_adam_available=True
    )
    config = ds.DeepSpeedConfig(resolved.config)
    batches = (config.train_batch_size, config.train_micro_batch_size_per_gpu, config.gradient_accumulation_steps)
    assert batches == (64, 4, 16)
    assert config.gradient_clipping == 0.5
    assert config.optimizer_name == "adamw"
    offload = config.zero_config.offload_optimizer
    assert resolved.offload_optimizer == (offload.device if offload else "none")
    assert resolved.zero_stage == config.zero_optimization_stage
