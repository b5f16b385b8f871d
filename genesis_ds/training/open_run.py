"""Everything a run needs before its engine is built: tokenizer, data, directory, and the checkpoint it goes on from."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_ds.arguments import to_dict
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus
from genesis_ds.data.tasks.lm import LanguageModelling
from genesis_ds.data.token_set import TokenSet, compile_token_set
from genesis_ds.ds_config import Resolved
from genesis_ds.engine.distributed import Ranks, agree, first_on_each_node
from genesis_ds.errors import UserError
from genesis_ds.tokenizer import Tokenizer, load_tokenizer
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.trainer import TrainingState


@dataclass(frozen=True)
class OpenRun:
    """A run that is about to train. Nothing has been written yet but its token set."""

    run: RunConfig
    tokenizer: Tokenizer
    token_set: TokenSet
    task: LanguageModelling
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
    token_set = first_on_each_node(lambda: prepare_data(run, tokenizer), ranks)
    return agree(lambda: _open(run, resolved, tokenizer, token_set, ranks))


def fit_vocabulary(run: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The run with the tokenizer's vocabulary size. Raises UserError when its own is smaller."""
    wanted = run.model.vocab_size or tokenizer.vocab_size
    if wanted < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size: {wanted} is smaller than the tokenizer's vocabulary of {tokenizer.vocab_size}; "
            "leave it out, or give at least that many"
        )
    return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=wanted))


def prepare_data(run: RunConfig, tokenizer: Tokenizer) -> TokenSet:
    """The run's corpus, split and tokenized; compiled at the first call, read at the others."""
    corpus = Corpus.load(run.data.corpus)
    split = split_verses(corpus, run.data.split_seed)
    return compile_token_set(corpus, run.data.languages, tokenizer, split, Path(run.data.token_sets))


def _open(run: RunConfig, resolved: Resolved, tokenizer: Tokenizer, token_set: TokenSet, ranks: Ranks) -> OpenRun:
    directory = RunDirectory(Path(run.output_dir) / run.name)
    if run.resume == "never" and directory.metrics.exists():
        raise UserError(f"resume: never, but {directory.path} holds a run; choose another --name or remove it")
    same = _identity(run, resolved, tokenizer, token_set, ranks)
    checkpoints = CheckpointManager(directory.checkpoints, same, run.checkpoint.keep_last, ranks)
    checkpoint = checkpoints.find(run.resume)
    state, hook_states = checkpoints.read_state(checkpoint) if checkpoint else ({}, {})
    if checkpoint and resolved.offload_optimizer == "nvme":
        raise UserError(
            f"{checkpoint}: DeepSpeed does not restore an optimizer on NVMe exactly, so this run cannot be resumed; "
            "offload the optimizer to the cpu, or start anew with --resume never and another --name"
        )
    task = LanguageModelling(token_set, run.batch.seq_len, run.seed)
    checkpoints.require_space(run.model.n_parameters)
    return OpenRun(
        run, tokenizer, token_set, task, directory, checkpoints, checkpoint, TrainingState(**state), hook_states
    )


def _identity(
    run: RunConfig, resolved: Resolved, tokenizer: Tokenizer, token_set: TokenSet, ranks: Ranks
) -> dict[str, Any]:
    """What a checkpoint must agree with, so that continuing it is continuing the same run."""
    model = {
        f"model.{key}": value
        for key, value in dataclasses.asdict(run.model).items()
        if key not in ("preset", "attention", "init", "max_seq_len")
    }
    return model | {
        "tokenizer (fingerprint)": tokenizer.fingerprint[:16],
        "data (fingerprint)": token_set.fingerprint[:16],
        "seed": run.seed,
        "batch.seq_len": run.batch.seq_len,
        "batch.global_batch_size": run.batch.global_batch_size,
        "number of ranks": ranks.world_size,
        "zero_optimization.stage": resolved.zero_stage,
        "offload_optimizer.device": resolved.offload_optimizer,
        "optimizer.implementation": resolved.optimizer_implementation,
        "precision": resolved.precision,
    }
