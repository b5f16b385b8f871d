"""A run and a ds_config to resolve, and what the outcome is asked for."""

from dataclasses import replace

import pytest

from genesis_ds.ds_config import OptimizerSettings, Resolved, RunSettings, resolve
from genesis_ds.errors import UserError

WHERE = "ds_configs/mine.json"
YAML = "launch/runs/quickstart.yaml"
ADAM = OptimizerSettings(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
RUN = RunSettings(where=YAML, micro_batch_size=4, global_batch_size=64, gradient_clipping=1.0, optimizer=ADAM)
BF16 = {"bf16": {"enabled": True}}
OFFLOAD = {"stage": 2, "reduce_bucket_size": 5e7, "offload_optimizer": {"device": "cpu"}}


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
