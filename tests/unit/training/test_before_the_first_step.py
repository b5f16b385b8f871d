from types import SimpleNamespace

import pytest
import torch

from genesis_ds.config import (
    CompileConfig,
    DataConfig,
    MaskingConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    WeightAverageConfig,
)
from genesis_ds.config.resolve import SizedRun, resolve_steps
from genesis_ds.hooks.base import Hook
from genesis_ds.training.header import in_fp32, never_begins, not_compiled, recipe
from genesis_ds.training.trainer import Trainer


def test_a_request_to_stop_is_left_to_the_loop_only_once_the_untrained_model_has_been_measured():
    """Until then it ends the process at once (supervision/stop.py), in the midst of a measurement too."""
    order = []

    class Probe(Hook):
        def before_training(self, global_step):
            order.append(f"measured at step {global_step}")

    trainer = object.__new__(Trainer)
    state = SimpleNamespace(global_step=0, is_complete=lambda run: True)
    vars(trainer).update(
        run=None, hooks={"a": Probe(), "b": Probe()}, state=state, begins=lambda: order.append("begins")
    )
    trainer.train()
    assert order == ["measured at step 0", "measured at step 0", "begins"]


def test_what_would_begin_after_the_last_step_is_said():
    config = RunConfig(
        masking=MaskingConfig(kind="word", start=300),
        optimizer=OptimizerConfig(weight_average=WeightAverageConfig("swa", start="3 epochs")),
    )
    sized = SizedRun(config, config.model, None, tasks=("lm",), heads=())
    said = never_begins(resolve_steps(sized, n_steps=300, steps_per_epoch=100))
    assert [line.split(" is not before the end of the run, 300 steps: it never begins")[0] for line in said] == [
        "optimizer.weight_average.start 300",
        "masking.start 300",
    ]
    assert never_begins(resolve_steps(sized, n_steps=301, steps_per_epoch=100)) == []


def test_what_a_run_adds_to_the_defaults_is_said_by_section():
    average = WeightAverageConfig("ema", decay=0.99)
    run = RunConfig(optimizer=OptimizerConfig(lr=0.5, weight_average=average), masking=MaskingConfig(kind="word"))
    said = ["optimizer: lr 0.5, weight_average.kind ema, weight_average.decay 0.99", "masking: kind word"]
    assert recipe(run) == said
    decaying = RunConfig(data=DataConfig(chapter_order="shuffled"), schedule=ScheduleConfig(weight_decay_end_ratio=2.0))
    assert recipe(decaying) == ["data: chapter_order shuffled", "schedule: weight_decay_end_ratio 2.0"]
    assert recipe(RunConfig()) == []
    compensated = RunConfig(optimizer=OptimizerConfig(lr=0.5, master_rounding="kahan"))
    assert recipe(in_fp32(compensated)) == ["optimizer: lr 0.5"]


@pytest.mark.parametrize(
    ("given", "device", "said"),
    [
        (CompileConfig(activation_memory_budget=0.3), "cpu", ["compile.activation_memory_budget 0.3 changes nothing"]),
        (CompileConfig(activation_memory_budget=0.3), "cuda", []),
        (CompileConfig("never", "reduce-overhead"), "cuda", ["compile.mode reduce-overhead changes nothing"]),
        (CompileConfig("always", "reduce-overhead"), "cpu", ["compile.mode reduce-overhead changes nothing"]),
    ],
)
def test_what_compiling_has_no_part_in_is_said(given, device, said):
    lines = not_compiled(RunConfig(compile=given), torch.device(device))
    assert [line.partition(":")[0] for line in lines] == said
