"""The hooks of a run: what it measures, and who writes it down."""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch

from genesis_ds.config import RunConfig
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import evaluating
from genesis_ds.engine.step_meter import StepMeter, logits_and_states
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.evaluate.model_calls import ModelCalls
from genesis_ds.hooks.evaluate.samples import Samples
from genesis_ds.hooks.evaluate.schedule import EvaluationSchedule
from genesis_ds.hooks.evaluate.tasks import EvaluateTasks
from genesis_ds.hooks.observe.grokking import Grokking
from genesis_ds.hooks.observe.memory import Memory
from genesis_ds.hooks.observe.throughput import Throughput
from genesis_ds.hooks.observe.trajectory import Probe, Trajectory
from genesis_ds.hooks.write.console import Console
from genesis_ds.hooks.write.json_lines import JsonLines
from genesis_ds.hooks.write.tensorboard import TensorBoard
from genesis_ds.model.multitask import LM, output_of
from genesis_ds.training.open_run import OpenRun
from genesis_ds.training.representation_probes import study_hooks
from genesis_ds.training.run_data import RunData, Text


def build_hooks(opened: OpenRun, engine: Any, memory: Memory, ranks: Ranks, device: torch.device) -> list[Hook]:
    """The hooks of a run, producers of metrics first. Writers live on the main rank alone."""
    run, data = opened.run, opened.data
    hooks: list[Hook] = [Throughput(run.log_every, device), memory]
    config = run.evaluation
    verse_schedule = EvaluationSchedule(config.tasks_every, config.per_decade)
    schedules = dict.fromkeys(opened.training.tasks, verse_schedule)
    schedules[LM] = EvaluationSchedule(config.every, config.per_decade)
    output, in_evaluation = output_of(engine), partial(evaluating, engine)
    calls = ModelCalls(output, ranks, device)
    hooks.append(EvaluateTasks(calls, in_evaluation, opened.training.evaluations(), schedules))
    if isinstance(data, Text):
        if LM in opened.training.tasks:
            of_text = data.token_set, data.tokenizer, run.samples, run.seed
            hooks.append(Samples(partial(output, LM), in_evaluation, *of_text, device))
        hooks += study_hooks(run, data, opened.studies, engine, ranks, device)
    if run.grokking.rule != "none":
        hooks.append(Grokking(run.grokking.rule, schedules))
    if run.trajectory.every:
        hooks.append(_trajectory(run, data, opened.training.tasks, engine, ranks, device))
    if ranks.is_main:
        first_step = opened.state.global_step
        hooks += [Console(first_step), JsonLines(opened.directory.metrics, first_step)]
        hooks += [TensorBoard(opened.directory.tensorboard, first_step)]
    return hooks


def _trajectory(
    run: RunConfig, data: RunData, tasks: Collection[str], engine: Any, ranks: Ranks, device: torch.device
) -> Trajectory:
    """What is measured of every run."""
    if isinstance(data, Text):
        probe = Probe.of_text(data.token_set, run.batch.seq_len)
    else:
        probe = Probe.of_arithmetic(data.table.validation)
    asks = StepMeter(engine, ranks, device), partial(logits_and_states, engine), partial(evaluating, engine)
    return Trajectory(
        *asks,
        probe if LM in tasks else None,
        run.trajectory.every,
        run.batch.micro_batch_size,
        run.model.norm == "deepnorm",
        device,
    )
