"""Everything a run needs before its engine is built: tokenizer, data, directory, and the checkpoint it goes on from."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.arguments import to_dict
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import RunConfig
from genesis_ds.corpus.readers.openbible import read_cross_references
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus, CrossReferences
from genesis_ds.data.token_set import TokenSet, compile_token_set
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import Ranks, agree, first_on_each_node
from genesis_ds.errors import UserError
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.tokenizer import Tokenizer, load_tokenizer
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.tasks import RunTasks, open_tasks
from genesis_ds.training.trainer import TrainingState


@dataclass(frozen=True)
class OpenRun:
    """A run that is about to train. Nothing has been written yet but its token set."""

    run: RunConfig
    tokenizer: Tokenizer
    token_set: TokenSet
    links: CrossReferences
    training: RunTasks
    directory: RunDirectory
    checkpoints: CheckpointManager
    checkpoint: Path | None
    state: TrainingState
    hook_states: dict[str, Any]

    def describe(self, resolved: Resolved) -> None:
        """Write what the run is into its directory."""
        fingerprints = {"token_set": self.token_set.fingerprint, "tokenizer": self.tokenizer.fingerprint}
        self.directory.write(to_dict(self.run), resolved.config, fingerprints)


def open_run(run: RunConfig, resolved: Resolved, ranks: Ranks) -> OpenRun:
    """Every rank calls it; a mistake that one of them finds is raised on all."""
    tokenizer = agree(lambda: load_tokenizer(run.tokenizer.kind, run.tokenizer.path))
    run = fit_vocabulary(run, tokenizer)
    data = first_on_each_node(lambda: prepare_data(run, tokenizer), ranks)
    return agree(lambda: _open(run, resolved, tokenizer, data, ranks))


def fit_vocabulary(run: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The run with the tokenizer's vocabulary size. Raises UserError when its own is smaller."""
    wanted = run.model.vocab_size or tokenizer.vocab_size
    if wanted < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size: {wanted} is smaller than the tokenizer's vocabulary of {tokenizer.vocab_size}; "
            "leave it out, or give at least that many"
        )
    return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=wanted))


@dataclass(frozen=True)
class Data:
    """A run's text."""

    token_set: TokenSet
    links: CrossReferences
    """Of the corpus and of the user's file."""
    notices: list[str]


def prepare_data(run: RunConfig, tokenizer: Tokenizer) -> Data:
    """The run's corpus, split and tokenized; compiled at the first call, read at the others."""
    corpus = Corpus.load(run.data.corpus)
    split = split_verses(corpus, run.data.split_seed)
    token_set = compile_token_set(corpus, run.data.languages, tokenizer, split, Path(run.data.token_sets))
    if run.data.cross_references is None:
        return Data(token_set, corpus.cross_references, [])
    try:
        more, notices = read_cross_references(Path(run.data.cross_references), corpus.verse_ids)
    except UserError as error:
        raise UserError(f"data.cross_references: {error}") from error
    return Data(token_set, corpus.cross_references + more, notices)


def _open(run: RunConfig, resolved: Resolved, tokenizer: Tokenizer, data: Data, ranks: Ranks) -> OpenRun:
    directory = RunDirectory(Path(run.output_dir) / run.name)
    if run.resume == "never" and directory.metrics.exists():
        raise UserError(f"resume: never, but {directory.path} holds a run; choose another --name or remove it")
    same = _identity(run, resolved, tokenizer, data, ranks)
    checkpoints = CheckpointManager(directory.checkpoints, same, run.checkpoint.keep_last, ranks)
    checkpoint = checkpoints.find(run.resume)
    state, hook_states = checkpoints.read_state(checkpoint) if checkpoint else ({}, {})
    if checkpoint and resolved.offload_optimizer == "nvme":
        raise UserError(
            f"{checkpoint}: DeepSpeed does not restore an optimizer on NVMe exactly, so this run cannot be resumed; "
            "offload the optimizer to the cpu, or start anew with --resume never and another --name"
        )
    saved_tasks = state.pop("tasks", None)
    training_state = TrainingState(**state)
    training = open_tasks(run, data.token_set, data.links, ranks, saved_tasks, training_state.consumed_samples)
    training.notices[:0] = data.notices
    checkpoints.require_space(sum(parameter.numel for parameter in run_parameters(run)))
    return OpenRun(
        run,
        tokenizer,
        data.token_set,
        data.links,
        training,
        directory,
        checkpoints,
        checkpoint,
        training_state,
        hook_states,
    )


def _identity(run: RunConfig, resolved: Resolved, tokenizer: Tokenizer, data: Data, ranks: Ranks) -> dict[str, Any]:
    """What a checkpoint must agree with, so that continuing it is continuing the same run."""
    model = {
        f"model.{key}": value
        for key, value in dataclasses.asdict(run.model).items()
        if key not in ("preset", "attention", "init", "max_seq_len")
    }
    return model | {
        "tokenizer (fingerprint)": tokenizer.fingerprint[:16],
        "data (fingerprint)": data.token_set.fingerprint[:16],
        "cross-references (fingerprint)": data.links.fingerprint[:16],
        "verse_tasks.projection_dim": run.verse_tasks.projection_dim,
        "seed": run.seed,
        "batch.seq_len": run.batch.seq_len,
        "batch.global_batch_size": run.batch.global_batch_size,
        "number of ranks": ranks.world_size,
        "zero_optimization.stage": resolved.zero_stage,
        "offload_optimizer.device": resolved.offload_optimizer,
        "optimizer.implementation": resolved.optimizer_implementation,
        "precision": resolved.precision,
    }
