"""Everything a run needs before its engine is built: data, directory, and the checkpoint it goes on from."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.save.directory import Found, claim
from genesis_ds.checkpoint.save.manager import CheckpointManager
from genesis_ds.checkpoint.save.manifest import REMEDY
from genesis_ds.config import RunConfig
from genesis_ds.config.durations import count_log_spaced, steps
from genesis_ds.config.parse import to_dict
from genesis_ds.data.vocabulary import fit_vocabulary
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import Ranks, first_on_each_node, from_main, raise_on_all_ranks
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.stored import parse_stored
from genesis_ds.training.lengths import with_lengths
from genesis_ds.training.representation_probes import Studies, open_studies
from genesis_ds.training.run_data import RunData, Text, prepare_data
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.tasks import RunTasks, open_tasks
from genesis_ds.training.trainer import TrainingState


@dataclass(frozen=True)
class OpenRun:
    """A run that is about to train. Nothing has been written yet but its token set."""

    run: RunConfig
    data: RunData
    training: RunTasks
    studies: Studies
    directory: RunDirectory
    checkpoints: CheckpointManager
    found: Found | None
    """The checkpoint it goes on from."""
    state: TrainingState
    hook_states: dict[str, Any]

    def describe(self, resolved: Resolved) -> None:
        """Write what the run is into its directory, which is then this process's alone."""
        self.directory.write(to_dict(self.run), resolved.config, self.data.fingerprints)
        claim(self.directory.checkpoints)


def open_run(run: RunConfig, resolved: Resolved, ranks: Ranks, trust: bool = False) -> OpenRun:
    """Every rank calls it; a mistake that one of them finds is raised on all. trust: as in CheckpointManager."""
    run = raise_on_all_ranks(lambda: fit_vocabulary(run))
    data = first_on_each_node(lambda: prepare_data(run), ranks)
    directory = RunDirectory(Path(run.output_dir) / run.name)
    identity = _identity(run, resolved, data)
    checkpoints = CheckpointManager(directory.checkpoints, run.checkpoint, ranks, identity, trust)
    found = from_main(raise_on_all_ranks(lambda: _find(run, directory, checkpoints) if ranks.is_main else None))
    if found and resolved.offload_optimizer == "nvme":
        raise UserError(
            f"{found.path}: a run cannot be resumed with its optimizer on NVMe, which DeepSpeed does not restore "
            "exactly; set offload_optimizer.device to cpu, or start anew with --resume never and another --name"
        )
    return raise_on_all_ranks(lambda: _open(run, data, directory, checkpoints, found, ranks))


def _find(run: RunConfig, directory: RunDirectory, checkpoints: CheckpointManager) -> Found | None:
    if run.resume == "never" and directory.metrics.exists():
        raise UserError(f"resume: never, but {directory.path} holds a run; choose another --name or remove it")
    if directory.checkpoints.exists():
        claim(directory.checkpoints)
    return checkpoints.find(run.resume)


def _open(
    run: RunConfig,
    data: RunData,
    directory: RunDirectory,
    checkpoints: CheckpointManager,
    found: Found | None,
    ranks: Ranks,
) -> OpenRun:
    state, hook_states = checkpoints.read_state(found.path) if found else ({}, {})
    saved_tasks = state.pop("tasks", None)
    training_state = parse_stored(json.dumps(state), TrainingState, found.path if found else "", REMEDY)
    training = open_tasks(run, data, ranks, saved_tasks, training_state.consumed_samples)
    run = with_lengths(run, training)
    checkpoints.policy = run.checkpoint
    first, last = training_state.global_step + 1, run.n_steps - 1
    milestones = steps(run.checkpoint.milestones)
    checkpoints.require_space(
        sum(parameter.numel for parameter in run_parameters(run)),
        count_log_spaced(first, last, run.checkpoint.weights_per_decade),
        max(0, last + 1 - first) // milestones if milestones else 0,
        run.optimizer.grokfast.is_on,
    )
    studies = open_studies(run, data) if isinstance(data, Text) else Studies()
    return OpenRun(run, data, training, studies, directory, checkpoints, found, training_state, hook_states)


def _identity(run: RunConfig, resolved: Resolved, data: RunData) -> dict[str, Any]:
    """What a checkpoint must agree with, so that continuing it is continuing the same run."""
    model = {
        f"model.{key}": value
        for key, value in dataclasses.asdict(run.model).items()
        if key not in ("preset", "attention", "fp32_residual", "init", "max_seq_len")
    }
    return {
        **model,
        **data.identity,
        "verse_tasks.projection_dim": run.verse_tasks.projection_dim,
        "seed": run.seed,
        "batch.seq_len": run.batch.seq_len,
        "batch.global_batch_size": run.batch.global_batch_size,
        "optimizer.grokfast": "on" if run.optimizer.grokfast.is_on else None,
        "precision": resolved.precision,
        "model.fp32_residual": "on" if run.model.fp32_residual else None,  # as in checkpoints of before the option
    }
