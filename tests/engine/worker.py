"""Run by the engine tests under torchrun: trains each case of a spec with the real engine and writes what happened.

Many cases share one process, because starting one costs more than training a tiny model.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from genesis_ds import ds_config, metrics
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import (
    ActivationCheckpointingConfig,
    BatchConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TasksConfig,
    VerseTasksConfig,
)
from genesis_ds.corpus.verses import Corpus
from genesis_ds.data.token_set import open_token_set
from genesis_ds.engine import distributed, operations
from genesis_ds.engine.deepspeed import TRUNK_GROUPS, build_engine, gradient_norms
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.updates import forget_cpu_adam_steps, torch_optimizer
from genesis_ds.model.multitask import build_model
from genesis_ds.training.run import prepare_operations
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
    return RunConfig(
        model=ModelConfig(**MODEL | case.get("model", {})),
        activation_checkpointing=ActivationCheckpointingConfig(**case.get("checkpointing", {})),
        tasks=TasksConfig(**tasks),
        verse_tasks=VerseTasksConfig(slot_sequences=SLOT if len(tasks) > 1 else None, projection_dim=16),
        batch=BatchConfig(**VERSES_BATCH if len(tasks) > 1 else BATCH),
        optimizer=OptimizerConfig(lr=LR, implementation=case.get("implementation", "auto")),
        precision=case.get("precision", "auto"),
    )


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
        self.token_set = open_token_set(Path(spec["token_set"]))
        self.links = Corpus.load(spec["corpus"]).cross_references
        root = Path(sys.argv[2]).parent / case["name"]
        self.manager = CheckpointManager(root, {}, keep_last=2, ranks=ranks)
        self.layer_norms: list[dict[int, float]] = []

    def start(self) -> Trainer:
        """From the newest checkpoint, if there is one."""
        checkpoint = self.manager.find("auto")
        state = self.manager.read_state(checkpoint)[0] if checkpoint else {}
        saved = state.pop("tasks", None)
        training = open_tasks(self.run, self.token_set, self.links, self.ranks, saved, 0)
        engine = self.build_engine(training)
        if checkpoint:
            self.manager.load(engine, checkpoint)
        state, device = TrainingState(**state), distributed.device(self.ranks)
        trainer = Trainer(self.run, engine, training, [], self.manager, state, self.ranks, device)
        if self.case.get("naive"):  # what a loop does that knows nothing of heads
            engine.module.training = False
            for group in torch_optimizer(engine).param_groups:
                group["name"] = TRUNK_GROUPS[0]
        return trainer

    def build_engine(self, training: RunTasks) -> Any:
        model = partial(
            build_model, self.run.model, self.run.activation_checkpointing, training.heads, projection_dim=16
        )
        engine = build_engine(model, self.resolved.config, lambda step: 1.0, seed=0)
        forget_cpu_adam_steps(engine)
        if self.case.get("gradient_norms"):
            step = engine.step

            def watched_step():
                if engine.is_gradient_accumulation_boundary():
                    self.layer_norms.append(gradient_norms(engine))
                step()

            engine.step = watched_step
        return engine

    def results(self) -> dict[str, Any]:
        n, half = self.case["steps"], self.case["steps"] // 2
        trainer = self.start()
        if not self.case.get("resume"):
            result: dict[str, Any] = {"losses": losses(trainer, n)}
        else:
            losses(trainer, half)
            trainer.save()
            result = {"losses": losses(trainer, n - half)}
            trainer.engine.destroy()
            trainer = self.start()
            result["resumed"] = losses(trainer, n - half)
        trainer.engine.destroy()
        if self.layer_norms:
            result["first_to_last"] = [norms[0] / norms[max(norms)] for norms in self.layer_norms]
        return result


def losses(trainer: Trainer, n: int) -> list[float]:
    """Train n optimizer steps; the loss of each, over all ranks and micro-batches."""
    found = []
    for _ in range(n):
        trainer.step()
        found.append(trainer.tally.report()[metrics.TRAIN_LOSS])
    return found


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    operations.build("cpu_adam")
    results = {case["name"]: Case(case, spec, ranks).results() for case in spec["cases"]}
    if ranks.is_main:
        Path(sys.argv[2]).write_text(json.dumps(results))
    distributed.leave()


if __name__ == "__main__":
    main()
