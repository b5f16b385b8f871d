"""Run by the engine tests under torchrun: trains each case of a spec with the real engine and writes what happened.

Many cases share one process, because starting one costs more than training a tiny model.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import cpuinfo
import torch

from genesis_ds import ds_config, metrics
from genesis_ds.checkpoint.load.restore import restore
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.config import (
    ActivationCheckpointingConfig,
    BatchConfig,
    GrokfastConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TasksConfig,
    VerseTasksConfig,
)
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.aligned_verses import ParallelVerses, halves
from genesis_ds.data.token_set import open_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine import compiled_ops, distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import (
    TRUNK_GROUPS,
    apply_optimizer_settings,
    build_engine,
    evaluating,
    torch_optimizer,
)
from genesis_ds.engine.optimizer_hooks import forget_cpu_adam_steps
from genesis_ds.engine.step_meter import StepMeter
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.evaluate.verse_calls import VerseCalls, VerseStates
from genesis_ds.model.multitask import build_model
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.run_data import Text
from genesis_ds.training.session import prepare_operations
from genesis_ds.training.tasks import RunTasks, open_tasks
from genesis_ds.training.trainer import Trainer, TrainingState

LR = 1e-3
MODEL = {"n_layers": 3, "dim": 32, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 64, "vocab_size": 260}
BATCH = {"seq_len": 32, "global_batch_size": 8, "micro_batch_size": 4}
VERSES_BATCH = {"seq_len": 128, "global_batch_size": 8, "micro_batch_size": 2}
SLOT = 4
"""With 1 rank and with 2, a step of VERSES_BATCH is two slots."""


def run_of(case: dict[str, Any]) -> RunConfig:
    tasks = case.get("tasks", {"lm": 1})
    slot = case.get("slot", SLOT) if len(tasks) > 1 else None
    return RunConfig(
        max_steps=case["steps"],
        model=ModelConfig(**MODEL | case.get("model", {})),
        activation_checkpointing=ActivationCheckpointingConfig(**case.get("checkpointing", {})),
        tasks=TasksConfig(**tasks),
        verse_tasks=VerseTasksConfig(slot_sequences=slot, projection_dim=16),
        batch=BatchConfig(**(VERSES_BATCH if len(tasks) > 1 else BATCH) | case.get("batch", {})),
        optimizer=OptimizerConfig(
            lr=LR,
            weight_decay=case.get("weight_decay", 0.1),
            implementation=case.get("implementation", "auto"),
            master_rounding=case.get("master_rounding", "none"),
            grokfast=GrokfastConfig(**case.get("grokfast", {})),
        ),
        precision=case.get("precision", "auto"),
    )


def verses_of(text: Text) -> ParallelVerses:
    """Of which a case with `states` gives the states."""
    table = VerseTable(text.token_set, ["val_chapter"], VERSES_BATCH["seq_len"])
    return halves(table, table.labels, 34)


class Case:
    """One case: builds an engine and trains it with the real loop, step by step."""

    def __init__(self, case: dict[str, Any], spec: dict[str, Any], ranks: Ranks) -> None:
        self.case, self.ranks, self.run = case, ranks, run_of(case)
        self.resolved = ds_config.resolve(
            case["ds_config"],
            where=case["name"],
            run=ds_config.RunSettings.of(self.run, case["name"]),
            world_size=ranks.world_size,
            accelerator="cpu",
            cpu_adam_available=True,
        )
        prepare_operations(self.resolved)
        links = load_corpus(spec["corpus"]).cross_references
        self.text = Text(load_tokenizer("bytes"), open_token_set(Path(spec["token_set"])), links)
        self.folder = Path(sys.argv[2]).parent
        root = self.folder / case["name"]
        self.manager = CheckpointManager(root, self.run.checkpoint, ranks, {})
        self.witnesses: list[Witness] = []

    def start(self) -> Trainer:
        """From the newest checkpoint of the case, or of the one it restores, if there is one."""
        found = self.manager.find(str(self.folder / self.case["restore"]) if "restore" in self.case else "auto")
        state = self.manager.read_state(found.path)[0] if found else {}
        saved = state.pop("tasks", None)
        training = open_tasks(self.run, self.text, self.ranks, saved, 0)
        engine = self.build_engine(training)
        if found and "restore" in self.case:
            restore(engine, ZeroFiles(found.path))
            apply_optimizer_settings(engine, self.learning_rate)
        elif found:
            self.manager.load(engine, found.path)
        if "fault" in self.case:
            inject(engine, self.case["fault"], self.ranks)
        state, device = TrainingState(**state | self.case.get("state", {})), distributed.device(self.ranks)
        self.witnesses = [Witness(engine, self.ranks, device)] if self.case.get("measure") else []
        trainer = Trainer(self.run, engine, training, self.witnesses, self.manager, state, self.ranks, device)
        if self.case.get("naive"):  # what a loop does that knows nothing of heads
            engine.module.training = False
            for group in torch_optimizer(engine).param_groups:
                group["name"] = TRUNK_GROUPS[0]
        return trainer

    def build_engine(self, training: RunTasks) -> Any:
        model = partial(
            build_model, self.run.model, self.run.activation_checkpointing, training.heads, projection_dim=16
        )
        engine = build_engine(model, self.resolved.config, self.learning_rate, seed=0)
        forget_cpu_adam_steps(engine)
        return engine

    def learning_rate(self, step: int) -> float:
        return self.case.get("decay", 1.0) ** step

    def results(self) -> dict[str, Any]:
        n, half = self.case["steps"], self.case["steps"] // 2
        trainer = self.start()
        states = self.states(trainer.engine) if self.case.get("states") else {}
        result: dict[str, Any]
        if "restore" in self.case:
            done = trainer.state.global_step
            trainer.save(StepRecord(done, max_steps=done, seconds=0.0))
            result = {"losses": losses(trainer, n - done)}
        elif not (self.case.get("resume") or self.case.get("save")):
            result = {"losses": losses(trainer, n)}
        else:
            losses(trainer, half)
            trainer.save(StepRecord(half, max_steps=half, seconds=0.0))
            result = {"losses": losses(trainer, n - half)}
            if self.case.get("resume"):
                trainer.engine.destroy()
                trainer = self.start()
                result["resumed"] = losses(trainer, n - half)
        trainer.engine.destroy()
        for witness in self.witnesses:
            result |= {"measured": witness.measured, "witnessed": witness.witnessed}
        result |= {"skipped": trainer.state.skipped_steps, "in_a_row": len(trainer.state.skipped_in_a_row)}
        return result | states | {"directory": str(self.folder / self.case["name"])}

    def states(self, engine: Any) -> dict[str, Any]:
        """The states of some verses, and whether all ranks have the same."""
        calls = VerseCalls(engine, self.ranks, distributed.device(self.ranks))
        shape = self.run.model.n_layers, self.run.batch.seq_len, self.run.batch.micro_batch_size
        found = VerseStates(calls, partial(evaluating, engine), *shape)(verses_of(self.text))
        everywhere = distributed.gather(found.tolist())
        return {"states": everywhere[0], "same_on_all_ranks": all(states == everywhere[0] for states in everywhere)}


def inject(engine: Any, fault: dict[str, Any], ranks: Ranks) -> None:
    """Change the loss of one forward pass on one rank: multiply it, or its gradient alone, or add to it."""
    calls, factor = itertools.count(), float(fault["factor"])

    def change(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if next(calls) != fault["pass"] or ranks.rank != fault["rank"]:
            return None
        if fault["of"] == "value":
            return output + factor
        if fault["of"] == "loss":
            return output * factor
        output.register_hook(lambda gradient: gradient * factor)
        return None

    engine.module.register_forward_hook(change)


class Witness(Hook):
    """What the meter says of each step, and what whole gradients and differences of whole weights say."""

    def __init__(self, engine: Any, ranks: Ranks, device: torch.device) -> None:
        self.engine, self.meter = engine, StepMeter(engine, ranks, device)
        self.measured: list[dict[str, Any]] = []
        self.witnessed: list[dict[str, Any]] = []

    def before_update(self, global_step: int, max_steps: int) -> None:
        from deepspeed.utils import safe_get_full_grad

        self.meter.arm()
        self.before, self.gradients = self.weights(), self.by_layer(safe_get_full_grad)

    def on_step(self, record: StepRecord) -> None:
        norms, after = self.meter.take(), self.weights()
        updates = self.by_layer(lambda parameter: after[id(parameter)] - self.before[id(parameter)])
        weights = torch.stack([weight.norm() for weight in after.values()]).norm()
        self.measured.append(dataclasses.asdict(norms) if norms else {})
        self.witnessed.append({"weights": float(weights), "gradients": self.gradients, "updates": updates})

    def weights(self) -> dict[int, torch.Tensor]:
        """id of each parameter -> its whole master weight."""
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param if self.engine.zero_optimization_stage() else torch.Tensor.detach
        return {id(parameter): whole(parameter).clone() for parameter in self.engine.module.parameters()}

    def by_layer(self, tensor: Callable[[torch.nn.Parameter], torch.Tensor]) -> list[float]:
        """The norm of what `tensor` makes of each layer's parameters."""
        layers = ([tensor(parameter) for parameter in layer.parameters()] for layer in self.engine.module.base.layers)
        return [float(torch.stack([part.float().norm() for part in parts]).norm()) for parts in layers]


def losses(trainer: Trainer, n: int) -> list[float]:
    """Train n optimizer steps; the loss of each, over all ranks and micro-batches."""
    found = []
    for _ in range(n):
        record = trainer.step()
        for hook in trainer.hooks:
            hook.on_step(record)
        found.append(trainer.tally.report()[metrics.TRAIN_LOSS])
    return found


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    cpuinfo.get_cpu_info = cache(cpuinfo.get_cpu_info)  # every DeepSpeedCPUAdam asks, for half a second
    compiled_ops.build("cpu_adam")
    results = {case["name"]: Case(case, spec, ranks).results() for case in spec["cases"]}
    if ranks.is_main:
        Path(sys.argv[2]).write_text(json.dumps(results))
    distributed.leave()


if __name__ == "__main__":
    main()
