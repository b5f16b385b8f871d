"""Run by the engine tests under torchrun: trains each case of a spec with the real engine and writes what happened.

Many cases share one process, because starting one costs more than training a tiny model.
"""

import dataclasses
import gc
import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cpuinfo
import numpy as np
import torch

from genesis_ds import ds_config, metrics
from genesis_ds.checkpoint.load.resume import find_checkpoint, load_checkpoint, read_training_state
from genesis_ds.checkpoint.load.teacher import open_teacher
from genesis_ds.checkpoint.load.zero_files import ZeroFiles
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config import (
    ActivationCheckpointingConfig,
    BatchConfig,
    CompileConfig,
    DistillConfig,
    ExtensionsConfig,
    GrokfastConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    RegularisationConfig,
    RunConfig,
    ScheduleConfig,
    VerseTasksConfig,
    WeightAverageConfig,
)
from genesis_ds.config.resolve import SizedRun, resolve_steps, run_settings
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.aligned_verses import ParallelVerses, halves
from genesis_ds.data.run_data import Text
from genesis_ds.data.token_set import open_token_set
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.engine import compiled_ops, distributed, internals
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.internals import torch_optimizer, whole_numel
from genesis_ds.engine.optimizer_hooks import TRUNK_GROUPS
from genesis_ds.engine.parameter_slices import parameter_slices
from genesis_ds.engine.ranks import Ranks
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.evaluate.model_calls import ModelCalls, VerseStates
from genesis_ds.model import groups
from genesis_ds.model.groups import LARGEST
from genesis_ds.model.multitask import LM, Outputs
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.distillation import Teacher
from genesis_ds.tasks.lm import as_batch, cross_entropy
from genesis_ds.tokenizer import load_tokenizer
from genesis_ds.training.preparation import prepare_operations
from genesis_ds.training.state import TrainingState
from genesis_ds.training.tasks import open_tasks
from genesis_ds.training.trainer import Trainer

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
        compile=CompileConfig(**case.get("compile", {})),
        regularisation=RegularisationConfig(**case.get("regularisation", {})),
        masking=MaskingConfig(**case.get("masking", {})),
        tasks=tasks,
        verse_tasks=VerseTasksConfig(slot_sequences=slot, projection_dim=16),
        batch=BatchConfig(**(VERSES_BATCH if len(tasks) > 1 else BATCH) | case.get("batch", {})),
        distill=DistillConfig(**case.get("distill", {})),
        extensions=ExtensionsConfig(optimizers=case.get("optimizers", {})),
        optimizer=OptimizerConfig(
            **{"lr": LR} | case.get("optimizer", {}),
            weight_decay=case.get("weight_decay", 0.1),
            weight_decay_of=case.get("weight_decay_of", {}),
            implementation=case.get("implementation", "auto"),
            master_rounding=case.get("master_rounding", "auto"),
            grokfast=GrokfastConfig(**case.get("grokfast", {})),
            weight_average=WeightAverageConfig(**case.get("weight_average", {})),
            perpendicular_gradient=case.get("perpendicular", False),
        ),
        schedule=ScheduleConfig(**case.get("schedule", {})),
        precision=case.get("precision", "auto"),
        log_every=1,
    )


def verses_of(text: Text) -> ParallelVerses:
    """Of which a case with `states` gives the states."""
    table = VerseTable(text.token_set, ["val_chapter"], VERSES_BATCH["seq_len"])
    return halves(table, table.labels, 34)


@dataclass(frozen=True)
class Decay:
    """A schedule that multiplies the learning rate at each step."""

    by: float
    decay_factor: Callable[[int], float]

    def factor(self, step: int) -> float:
        return self.by**step


class Case:
    """One case: builds an engine and trains it with the real loop, step by step."""

    def __init__(self, case: dict[str, Any], spec: dict[str, Any], ranks: Ranks) -> None:
        self.case, self.ranks, self.config = case, ranks, run_of(case)
        self.ds_config = ds_config.resolve(
            case["ds_config"],
            where=case["name"],
            run=run_settings(self.config, case["name"]),
            world_size=ranks.world_size,
            accelerator="cpu",
            cpu_adam_available=True,
        )
        prepare_operations(self.ds_config)
        links = load_corpus(spec["corpus"]).cross_references
        self.text = Text(load_tokenizer("bytes"), open_token_set(Path(spec["token_set"])), links)
        self.folder = Path(sys.argv[2]).parent
        self.directory = self.folder / case["name"]
        self.checkpoints = CheckpointManager(self.directory, KeepPolicy(), ranks, identity={})
        self.witnesses: dict[str, Hook] = {}

    def start(self) -> Trainer:
        """From the newest checkpoint of the case, or of the one it restores, if there is one."""
        elsewhere = str(self.folder / self.case["restore"]) if "restore" in self.case else "auto"
        found = find_checkpoint(self.directory, elsewhere)
        state = read_training_state(found.path, {}).state if found else {}
        saved = state.pop("tasks", None)
        tasks = open_tasks(self.config, self.text, self.ranks, saved=saved, teacher=self.teacher())
        sized = SizedRun(self.config, self.config.model, self.ds_config, tasks=tuple(tasks.tasks), heads=tasks.heads)
        run = resolve_steps(sized, n_steps=self.case["steps"], steps_per_epoch=1.0)
        run = dataclasses.replace(run, schedule=Decay(self.case.get("decay", 1.0), run.schedule.decay_factor))
        groups.LARGEST = self.case.get("largest_group", LARGEST)
        with patch.object(internals, "sharing_buffers", nullcontext) if self.case.get("separate") else nullcontext():
            engine = Engine.build(run, ranks=self.ranks, device=distributed.device(self.ranks))
        if found and "restore" in self.case:
            engine.load(ZeroFiles(found.path))
        elif found:
            load_checkpoint(engine, found.path, self.ranks)
        if "fault" in self.case:
            inject(engine, self.case["fault"])
        self.witnesses = {"witness": Witness(engine)} if self.case.get("measure") else {}
        if "weight_average" in self.case:
            self.witnesses["average"] = AverageLosses(engine)
        trainer = Trainer(
            run,
            engine=engine,
            tasks=tasks,
            hooks=self.witnesses,
            checkpoints=self.checkpoints,
            state=TrainingState(**state | self.case.get("state", {})),
        )
        if self.case.get("naive"):  # what a loop does that knows nothing of heads
            engine.model.training = False
            for group in torch_optimizer(engine._deepspeed).param_groups:
                group["name"] = TRUNK_GROUPS[0]
        return trainer

    def teacher(self) -> Teacher | None:
        if not self.config.distill.is_on:
            return None
        return open_teacher(self.config, self.config.model, self.text.tokenizer.fingerprint)

    def results(self) -> dict[str, Any]:
        n, half = self.case["steps"], self.case["steps"] // 2
        trainer = self.start()
        if self.case.get("same_batches"):
            return self.bits(trainer.engine)
        if self.case.get("fresh"):
            return fresh(trainer.engine)
        states = self.states(trainer.engine) if self.case.get("states") else {}
        result: dict[str, Any]
        if "restore" in self.case:
            done = trainer.state.global_step
            trainer.saver.save(StepRecord(done, done))
            result = {"losses": losses(trainer, n - done)}
        elif not (self.case.get("resume") or self.case.get("save")):
            result = {"losses": losses(trainer, n)}
        else:
            losses(trainer, half)
            trainer.saver.save(StepRecord(half, half))
            result = {"losses": losses(trainer, n - half)} | self.of_average()
            if self.case.get("resume"):
                trainer.engine.destroy()
                trainer = self.start()
                result["resumed"] = losses(trainer, n - half)
                result["resumed_average"] = self.of_average().get("average")
        if self.case.get("count_bytes"):
            result |= {"bytes": live_bytes(), "parameters": sum(map(whole_numel, trainer.engine.model.parameters()))}
        if blocks := trainer.engine.compiled_blocks:
            result |= {"graphs": blocks.n_graphs(), "breaks": blocks.breaks()}
        trainer.engine.destroy()
        if witness := self.witnesses.get("witness"):
            result |= {"measured": witness.measured, "witnessed": witness.witnessed}
        result = self.of_average() | result
        result |= {"skipped": trainer.state.skipped_steps, "in_a_row": len(trainer.state.skipped_in_a_row)}
        return result | states | {"directory": str(self.directory)}

    def of_average(self) -> dict[str, Any]:
        """The losses of the average of the weights so far, after each step."""
        return {"average": [*self.witnesses["average"].losses]} if "average" in self.witnesses else {}

    def bits(self, engine: Engine) -> dict[str, Any]:
        """Update on batches that are the same for all ranks and micro-steps, so that sums of gradients are exact.

        Gives the bits of the weights after each step, a hash of each, and the norms of the first update. The case's
        `skip`: a step before which there is one whose loss is inf.
        """
        batch, bits = self.config.batch, []
        micro_steps = batch.global_batch_size // (batch.micro_batch_size * self.ranks.world_size)
        steps = [(step, 1.0) for step in range(self.case["steps"])]
        if "skip" in self.case:
            steps.insert(self.case["skip"], (0, float("inf")))
        for step, factor in steps:
            drawn = np.random.default_rng(step).integers(self.config.model.vocab_size, size=(4, batch.seq_len + 1))
            inputs = as_batch(drawn)
            for _ in range(micro_steps):
                engine.backward(factor * cross_entropy(engine.forward(LM, inputs), inputs.labels["targets"]))
            engine.meter.arm()
            engine.step({LM})
            norms = engine.meter.take()
            weights = ((name, weight.contiguous().view(torch.int8).numpy()) for name, weight in engine.weights())
            of_each = {name: hashlib.blake2b(weight, digest_size=8) for name, weight in weights}
            bits.append(({name: found.hexdigest() for name, found in of_each.items()}, norms and norms.updates))
        engine.destroy()
        return {"bits": [found for found, _ in bits], "updates": bits[0][1]}

    def states(self, engine: Engine) -> dict[str, Any]:
        """The states of some verses, and whether all ranks have the same."""
        calls = ModelCalls(engine.output, engine.ranks, engine.device)
        shape = {
            "n_layers": self.config.model.n_layers,
            "seq_len": self.config.batch.seq_len,
            "rows": self.config.batch.micro_batch_size,
        }
        found = VerseStates(calls, engine.evaluating, **shape)(verses_of(self.text))
        everywhere = distributed.gather(found.tolist())
        return {"states": everywhere[0], "same_on_all_ranks": all(states == everywhere[0] for states in everywhere)}


def inject(engine: Engine, fault: dict[str, Any]) -> None:
    """Change the output of one forward pass on one rank: multiply it, or its gradient alone, or add to it."""
    calls, factor = itertools.count(), float(fault["factor"])

    def change(module: torch.nn.Module, inputs: Any, outputs: Outputs) -> Outputs | None:
        if next(calls) != fault["pass"] or engine.ranks.rank != fault["rank"]:
            return None
        if fault["of"] == "value":
            return outputs._replace(output=outputs.output + factor)
        if fault["of"] == "loss":
            return outputs._replace(output=outputs.output * factor)
        outputs.output.register_hook(lambda gradient: gradient * factor)
        return None

    engine.model.register_forward_hook(change)


def fresh(engine: Engine) -> dict[str, Any]:
    """The counts of updates that an optimizer has made, and the parameters whose master weights are not the weights."""
    weights = {name: weight.flatten().clone() for name, weight in engine.weights()}
    names = {parameter: name for name, parameter in engine.model.named_parameters()}
    moved = [
        names[place.parameter]
        for place in parameter_slices(engine._deepspeed, engine.ranks.rank)
        if not torch.equal(
            place.tensor.flatten()[place.start : place.start + place.numel].float(),
            weights[names[place.parameter]][place.offset : place.offset + place.numel].float(),
        )
    ]
    updates = [float(state["step"]) for state in torch_optimizer(engine._deepspeed).state.values() if "step" in state]
    engine.destroy()
    return {"updates": updates, "moved": moved}


class Witness(Hook):
    """What the meter says of each step, and what whole gradients and differences of whole weights say."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.measured: list[dict[str, Any]] = []
        self.witnessed: list[dict[str, Any]] = []

    def before_update(self, record: StepRecord) -> None:
        from deepspeed.utils import safe_get_full_grad

        self.engine.meter.arm()
        self.before, self.gradients = self.weights(), self.by_layer(safe_get_full_grad)

    def on_step(self, record: StepRecord) -> None:
        norms, after = self.engine.meter.take(), self.weights()
        updates = self.by_layer(lambda parameter: after[id(parameter)] - self.before[id(parameter)])
        weights = torch.stack([weight.norm() for weight in after.values()]).norm()
        self.measured.append(dataclasses.asdict(norms) if norms else {})
        layers = [parameter for layer in self.engine.model.base.layers for parameter in layer.parameters()]
        added = torch.cat([(after[id(p)] - self.before[id(p)]).double().flatten() for p in layers])
        cosine = torch.cosine_similarity(added, torch.cat([after[id(p)].double().flatten() for p in layers]), dim=0)
        self.witnessed.append({"weights": float(weights), "gradients": self.gradients, "updates": updates})
        self.witnessed[-1]["cosine"] = float(cosine)

    def weights(self) -> dict[int, torch.Tensor]:
        """id of each parameter -> its whole master weight."""
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param if self.engine.zero_stage else torch.Tensor.detach
        return {id(parameter): whole(parameter).clone() for parameter in self.engine.model.parameters()}

    def by_layer(self, tensor: Callable[[torch.nn.Parameter], torch.Tensor]) -> list[float]:
        """The norm of what `tensor` makes of each layer's parameters."""
        layers = ([tensor(parameter) for parameter in layer.parameters()] for layer in self.engine.model.base.layers)
        return [float(torch.stack([part.float().norm() for part in parts]).norm()) for parts in layers]


class AverageLosses(Hook):
    """The loss of the average of the weights on one batch after each step; None where there is no average yet."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.losses = engine, []

    def on_step(self, record: StepRecord) -> None:
        batch = average_batch()
        with self.engine.averaged() as there_is_one, self.engine.evaluating():
            output = self.engine.output(LM, batch.inputs["tokens"])
        loss = float(cross_entropy(output, batch.labels["targets"]))
        self.losses.append(loss if there_is_one else None)


def average_batch() -> Batch:
    return as_batch(np.random.default_rng(0).integers(MODEL["vocab_size"], size=(4, BATCH["seq_len"] + 1)))


def losses(trainer: Trainer, n: int) -> list[float]:
    """Train n optimizer steps; the loss of each, over all ranks and micro-batches."""
    found = []
    for _ in range(n):
        record = trainer.step()
        for hook in trainer.hooks.values():
            hook.on_step(record)
        found.append(record.metrics[metrics.TRAIN_LOSS])
    return found


def live_bytes() -> int:
    """Bytes of all storages that a tensor of this process refers to."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


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
