"""Everything a run needs before its engine is built: data, directory, tasks, and the checkpoint it goes on from."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from genesis_ds.checkpoint.load.resume import find_checkpoint, read_training_state
from genesis_ds.checkpoint.load.teacher import open_teacher
from genesis_ds.checkpoint.save.directory import GoodCheckpoint, claim
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.checkpoint.save.manifest import REMEDY, Manifest, StateFile
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.checkpoint.save.space import require_space
from genesis_ds.config import ModelShape, RunConfig
from genesis_ds.config.changes import changed
from genesis_ds.config.resolve import ResolvedRun, SizedRun, resolve_steps
from genesis_ds.data.run_data import RunData, Text, prepare_data
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import accelerator, first_on_each_node, from_main, raise_on_all_ranks
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.optimizers.load import state_tensors
from genesis_ds.stored import parse_stored
from genesis_ds.tasks.distillation import TEACHER, Teacher
from genesis_ds.tasks.load import trained
from genesis_ds.training.representation_probes import ProbeVerses, choose_probe_verses
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.run_length import run_length
from genesis_ds.training.state import TrainingState
from genesis_ds.training.tasks import RunTasks, open_tasks, strata_of, try_own_tasks


@dataclass(frozen=True)
class OpenRun:
    """A run that is about to train. Nothing has been written yet but its token set, and what is kept beside that."""

    run: ResolvedRun
    data: RunData
    tasks: RunTasks
    teacher: Teacher | None
    """Whom language modelling learns from; its models are on the CPU."""
    probes: ProbeVerses
    directory: RunDirectory
    checkpoints: CheckpointManager
    resumed_from: GoodCheckpoint | None
    """The checkpoint that the run is resumed from; None where it begins anew."""
    state: TrainingState
    hook_states: dict[str, Any]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of what the run learns from."""
        return self.data.fingerprints | ({TEACHER: self.teacher.fingerprint} if self.teacher else {})

    def changed(self) -> list[str]:
        """Say what of the run and its ds_config is not as it was when its checkpoint was saved, in a line at most."""
        if not self.resumed_from:
            return []
        saved = Manifest.read(self.resumed_from.path)
        fields = [*_of_ds_config(saved, self.run.ds_config), *changed(saved.config, self.run.to_dict())]
        return [f"changed since it was saved: {'; '.join(fields)}"] if fields else []

    def describe(self) -> None:
        """Write what the run is into its directory, and claim its checkpoints for this process."""
        self.directory.write(self.run.to_dict(), self.run.ds_config.config, self.fingerprints)
        claim(self.directory.checkpoints)


def open_run(config: RunConfig, ds_config: Resolved, ranks: Ranks, trust: bool = False) -> OpenRun:
    """Open the run on every rank; a mistake that one of them finds is raised on all.

    trust: run code that the files of a teacher hold.
    """
    model = raise_on_all_ranks(lambda: fit_vocabulary(config))
    data = first_on_each_node(lambda: _prepare(config), ranks)
    teacher = raise_on_all_ranks(lambda: _teacher(config, model, data, trust))
    directory = RunDirectory.of(config)
    identity = _identity(config, model, ds_config, data)
    identity["distill.teacher (fingerprint)"] = teacher.fingerprint[:16] if teacher else None
    found = raise_on_all_ranks(lambda: _find(config, directory) if ranks.is_main else None)
    resumed_from = from_main(found)
    if resumed_from and ds_config.offload_optimizer == "nvme":
        raise UserError(
            f"{resumed_from.path}: a run cannot be resumed with its optimizer on NVMe, which DeepSpeed does not "
            "restore exactly; set offload_optimizer.device to cpu, or start anew with --resume never and another --name"
        )
    return raise_on_all_ranks(
        lambda: _open(
            config,
            model=model,
            ds_config=ds_config,
            data=data,
            teacher=teacher,
            directory=directory,
            identity=identity,
            resumed_from=resumed_from,
            ranks=ranks,
        )
    )


def _prepare(config: RunConfig) -> RunData:
    """Return the data of a run, and leave on the disk what takes long to read out of them."""
    data = prepare_data(config)
    if isinstance(data, Text) and LM in trained(config) and (strata := strata_of(config, data)):
        strata.learn()
    return data


def _teacher(config: RunConfig, model: ModelShape, data: RunData, trust: bool) -> Teacher | None:
    if not config.distill.is_on:
        return None
    if config.distill.device == "cuda" and accelerator() != "cuda":
        raise UserError("distill.device: cuda, but torch finds no GPU; give cpu or auto")
    return open_teacher(config, model, data.fingerprints["tokenizer"], trust)


def _find(config: RunConfig, directory: RunDirectory) -> GoodCheckpoint | None:
    if config.resume == "never" and directory.metrics.exists():
        raise UserError(f"resume: never, but {directory.path} holds a run; choose another --name or remove it")
    if directory.checkpoints.exists():
        claim(directory.checkpoints)
    return find_checkpoint(directory.checkpoints, config.resume)


def _open(
    config: RunConfig,
    *,
    model: ModelShape,
    ds_config: Resolved,
    data: RunData,
    teacher: Teacher | None,
    directory: RunDirectory,
    identity: dict[str, Any],
    resumed_from: GoodCheckpoint | None,
    ranks: Ranks,
) -> OpenRun:
    saved = read_training_state(resumed_from.path, identity) if resumed_from else StateFile({}, {}, identity)
    counters = dict(saved.state)
    saved_tasks = counters.pop("tasks", None)
    state = parse_stored(json.dumps(counters), TrainingState, resumed_from.path if resumed_from else "", REMEDY)
    tasks = open_tasks(config, data, ranks, saved=saved_tasks, position=state.consumed_samples, teacher=teacher)
    raise_on_all_ranks(lambda: try_own_tasks(config, model, tasks))
    teachers = teacher.shapes if teacher else ()
    sized = SizedRun(config, model, ds_config, tasks=tuple(tasks.tasks), heads=tasks.heads, teachers=teachers)
    n_steps, steps_per_epoch = run_length(config, tasks)
    run = resolve_steps(sized, n_steps, steps_per_epoch)
    keep = KeepPolicy(config.checkpoint, run.intervals.milestones)
    checkpoints = CheckpointManager(
        directory.checkpoints, keep, ranks, identity=identity, background=config.checkpoint.background
    )
    require_space(run, checkpoints.directory, keep, done=state.global_step, n_steps=n_steps)
    probes = choose_probe_verses(run, data) if isinstance(data, Text) else ProbeVerses()
    return OpenRun(
        run,
        data=data,
        tasks=tasks,
        teacher=teacher,
        probes=probes,
        directory=directory,
        checkpoints=checkpoints,
        resumed_from=resumed_from,
        state=state,
        hook_states=saved.hooks,
    )


def _identity(config: RunConfig, model: ModelShape, ds_config: Resolved, data: RunData) -> dict[str, Any]:
    """Return what a checkpoint must agree with for the run to be the same when it goes on: dotted key -> value."""
    shape = {
        f"model.{key}": value
        for key, value in dataclasses.asdict(model).items()
        if key not in ("preset", "attention", "fp32_residual", "init", "max_seq_len", "options", "probabilities")
    }
    return {
        **shape,
        **data.identity,
        "verse_tasks.projection_dim": config.verse_tasks.projection_dim,
        "verse_tasks.tokens_ahead": config.verse_tasks.tokens_ahead,
        "data.chapter_order": config.data.chapter_order,
        "memorisation.canaries": _canaries(config),
        "seed": config.seed,
        "batch.seq_len": config.batch.seq_len,
        "batch.global_batch_size": config.batch.global_batch_size,
        "optimizer.name": config.optimizer.name,
        **_own_optimizer(config),
        "optimizer.grokfast": "on" if config.optimizer.grokfast.is_on else None,
        "optimizer.weight_average": _weight_average(config),
        "precision": ds_config.precision,
        # as in checkpoints of before the option:
        "model.fp32_residual": "on" if model.fp32_residual else None,
        "model.probabilities": model.probabilities if model.probabilities != "softmax" else None,
        "extensions.model": config.extensions.model,
        "model.options": model.options or None,
    }


def _of_ds_config(saved: Manifest, now: Resolved) -> list[str]:
    """Return what a ds_config keeps otherwise than that of a checkpoint did, with both values."""
    kept = (("ZeRO stage", saved.zero_stage, now.zero_stage), ("master weights", saved.masters, now.masters))
    return [f"{what} {before}, now {found}" for what, before, found in kept if before not in (None, found)]


def _weight_average(config: RunConfig) -> str | None:
    """Return what is averaged, in words; None where nothing is, as in checkpoints of before it."""
    of = config.optimizer.weight_average
    return f"{of.kind} from {of.start} on, every {of.every}" if of.is_on else None


def _canaries(config: RunConfig) -> str | None:
    """Return what canaries are trained on, in words; None without any, as in checkpoints of before them."""
    of = config.memorisation
    return f"{of.canaries}, repeated {', '.join(map(str, of.repetitions))} times" if of.canaries else None


def _own_optimizer(config: RunConfig) -> dict[str, Any]:
    """Return the class of a user's own optimizer and what it keeps, by their keys."""
    name = config.optimizer.name
    if name not in config.extensions.optimizers:
        return {}
    path, kept = config.extensions.optimizers[name], ", ".join(state_tensors(config))
    return {f"extensions.optimizers.{name}": f"{path} with the state {kept}"}
