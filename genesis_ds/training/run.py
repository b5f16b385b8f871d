"""A training run from its command line to its last checkpoint."""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from genesis_ds import ds_config
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import RunConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.verses import Corpus
from genesis_ds.data.tasks.lm import LanguageModelling
from genesis_ds.data.token_set import TokenSet, compile_token_set
from genesis_ds.engine import distributed, operations
from genesis_ds.engine.deepspeed import build_engine, evaluating
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.meter import HostSampler
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import Hook
from genesis_ds.hooks.console import Console
from genesis_ds.hooks.evaluate import Evaluate
from genesis_ds.hooks.json_lines import JsonLines
from genesis_ds.hooks.memory import Memory
from genesis_ds.hooks.samples import Samples
from genesis_ds.hooks.tensorboard import TensorBoard
from genesis_ds.hooks.throughput import Throughput
from genesis_ds.model.attention import prove_attention
from genesis_ds.tokenizer import Tokenizer, load_tokenizer
from genesis_ds.training.arguments import Arguments, OwnFlags, parse_arguments, to_dict
from genesis_ds.training.run_directory import RunDirectory
from genesis_ds.training.schedule import learning_rate_factor
from genesis_ds.training.trainer import Trainer, TrainingState


def main(argv: list[str]) -> int:
    """launch/train.py. Exit code 0: trained; 2: the user's mistake, said in one line."""
    ranks = Ranks.from_environment()
    try:
        arguments = train_arguments(argv)
        resolved = resolve(arguments, ranks)
        if arguments.options.print_config:
            print_config(arguments, resolved)
        else:
            train(arguments, resolved, ranks)
    except UserError as error:
        if ranks.is_main:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        distributed.leave()
    return 0


def train_arguments(argv: list[str]) -> Arguments:
    """The arguments of launch/train.py."""
    own = OwnFlags()
    own.add_argument("--print_config", action="store_true", help="show the resolved whole and stop")
    return parse_arguments(argv, own, "launch/train.py", "Train a run.")


def resolve(arguments: Arguments, ranks: Ranks) -> ds_config.Resolved:
    """The ds_config of this run on this machine."""
    run = arguments.run
    settings = ds_config.RunSettings(
        where=arguments.run_file,
        micro_batch_size=run.batch.micro_batch_size,
        global_batch_size=run.batch.global_batch_size,
        gradient_clipping=run.optimizer.gradient_clipping,
        precision=run.precision,
        optimizer=ds_config.OptimizerSettings(
            lr=run.optimizer.lr,
            betas=(run.optimizer.betas[0], run.optimizer.betas[1]),
            eps=run.optimizer.eps,
            weight_decay=run.optimizer.weight_decay,
            implementation=run.optimizer.implementation,
        ),
    )
    return ds_config.resolve(
        ds_config.load_ds_config(arguments.ds_config_file),
        where=arguments.ds_config_file,
        run=settings,
        world_size=ranks.world_size,
        accelerator=distributed.accelerator(),
        cpu_adam_available=operations.compiler_missing() is None,
    )


def print_config(arguments: Arguments, resolved: ds_config.Resolved) -> None:
    """The resolved whole: the run's YAML, then the ds_config that DeepSpeed would get."""
    documents = [to_dict(arguments.run), {"ds_config": resolved.config}]
    print(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True), end="")


def train(arguments: Arguments, resolved: ds_config.Resolved, ranks: Ranks) -> None:
    """Train the run to its end, from its newest checkpoint if it has one."""
    say: Callable[[str], None] = partial(print, flush=True) if ranks.is_main else lambda line: None
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    device = distributed.device(ranks)
    tokenizer = load_tokenizer(arguments.run.tokenizer.kind, arguments.run.tokenizer.path)
    run = fit_vocabulary(arguments.run, tokenizer)
    token_set = distributed.first_on_each_node(lambda: prepare_data(run, tokenizer), ranks)
    task = LanguageModelling(token_set, run.batch.seq_len, run.seed)

    directory = RunDirectory(Path(run.output_dir) / run.name)
    checkpoints = CheckpointManager(
        directory.checkpoints, identity(run, resolved, token_set, tokenizer, ranks), run.checkpoint.keep_last, ranks
    )
    if run.resume == "never" and directory.metrics.exists():
        raise UserError(
            f"resume: 'never', but {directory.path} holds a run already; choose another --name or remove it"
        )
    checkpoint = checkpoints.find(run.resume)
    state, hook_states = checkpoints.read_state(checkpoint) if checkpoint else ({}, {})
    training_state = TrainingState(**state)
    first_step = training_state.global_step
    if first_step >= run.max_steps:
        say(f"complete: {first_step} of {run.max_steps} steps are done; a higher --max_steps trains on")
        for line in directory.results() + directory.places():
            say(line)
        return
    if checkpoint and resolved.offload_optimizer == "nvme":
        raise UserError(
            f"{checkpoint}: DeepSpeed does not restore an optimizer on NVMe exactly, so this run cannot be resumed; "
            "offload the optimizer to the cpu, or start anew with --resume never and another --name"
        )
    checkpoints.require_space(run.model.n_parameters)
    if ranks.is_main:
        fingerprints = {"token_set": token_set.fingerprint, "tokenizer": tokenizer.fingerprint}
        directory.write(to_dict(run), resolved.config, fingerprints)
    for line in header(run, resolved, task, ranks, device):
        say(line)

    sampler = HostSampler()
    prepare_operations(resolved)
    learning_rate = partial(learning_rate_factor, run.schedule, run.max_steps)
    engine = build_engine(run.model, run.activation_checkpointing, resolved.config, learning_rate, run.seed)
    if checkpoint:
        checkpoints.load(engine, checkpoint)
        say(f"resumed    {checkpoint}: step {first_step}, {training_state.consumed_samples:,} samples seen")
    hooks = build_hooks(run, engine, token_set, tokenizer, directory, first_step, sampler, ranks, device)
    for hook in hooks:
        hook.load_state_dict(hook_states.get(type(hook).__name__, {}))
    Trainer(run, engine, task, hooks, checkpoints, training_state, ranks, device).train()
    for line in directory.places():
        say(line)


def prepare_data(run: RunConfig, tokenizer: Tokenizer) -> TokenSet:
    """The run's corpus, split and tokenized; compiled at the first call, read at the others."""
    corpus = Corpus.load(run.data.corpus)
    split = split_verses(corpus, run.data.split_seed)
    return compile_token_set(corpus, run.data.languages, tokenizer, split, Path(run.data.token_sets))


def prepare_operations(resolved: ds_config.Resolved) -> None:
    """Build what DeepSpeed would otherwise build in the middle of its initialisation, and make its directories."""
    for path in resolved.nvme_paths:
        path.mkdir(parents=True, exist_ok=True)
    if resolved.optimizer_implementation == "cpu_adam":
        operations.build("cpu_adam")
    if resolved.nvme_paths:
        operations.build("async_io")


def fit_vocabulary(run: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The run with the tokenizer's vocabulary size. Raises UserError when its own is smaller."""
    wanted = run.model.vocab_size or tokenizer.vocab_size
    if wanted < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size: {wanted} is smaller than the tokenizer's vocabulary of {tokenizer.vocab_size}; "
            "leave it out, or give at least that many"
        )
    return dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=wanted))


def identity(
    run: RunConfig, resolved: ds_config.Resolved, token_set: TokenSet, tokenizer: Tokenizer, ranks: Ranks
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
        "optimizer on": resolved.offload_optimizer,
        "precision": resolved.precision,
    }


def header(
    run: RunConfig, resolved: ds_config.Resolved, task: LanguageModelling, ranks: Ranks, device: torch.device
) -> list[str]:
    """What is about to be trained, on what, and how: the lines printed at the start."""
    model, batch = run.model, run.batch
    dtype = torch.bfloat16 if resolved.precision == "bf16" else torch.float32
    proof = prove_attention(model, device, dtype, min(batch.seq_len, 512))
    tokens = batch.global_batch_size * batch.seq_len
    epochs = run.max_steps * batch.global_batch_size / task.windows_per_epoch
    return [
        f"model      {model.n_layers} layers x {model.dim}, {model.norm}, {model.n_parameters:,} parameters",
        f"data       {task.windows_per_epoch:,} windows of {batch.seq_len} tokens an epoch",
        f"step       {tokens:,} tokens = {batch.micro_batch_size} windows x {ranks.world_size} ranks x "
        f"{resolved.gradient_accumulation_steps} accumulation; {run.max_steps:,} steps are {epochs:.2f} epochs",
        f"attention  {proof.kernel}, relative error {proof.max_error:.1e} against fp32 math",
        f"device     {device.type} x {ranks.world_size}, ZeRO-{resolved.zero_stage}, {resolved.precision}, "
        f"optimizer on {resolved.offload_optimizer}, parameters on {resolved.offload_param}",
        *(f"ds_config  {note}" for note in resolved.notes),
    ]


def build_hooks(
    run: RunConfig,
    engine: Any,
    token_set: TokenSet,
    tokenizer: Tokenizer,
    directory: RunDirectory,
    first_step: int,
    sampler: HostSampler,
    ranks: Ranks,
    device: torch.device,
) -> list[Hook]:
    """The hooks of a run, producers of metrics first. Writers live on the main rank alone."""
    evaluation_mode = partial(evaluating, engine)
    summed_loss = partial(engine, reduction="sum")
    micro = run.batch.micro_batch_size
    hooks: list[Hook] = [
        Throughput(run.batch.global_batch_size * run.batch.seq_len, run.log_every),
        Memory(sampler, run.log_every),
        Evaluate(summed_loss, evaluation_mode, token_set, run.evaluation, run.batch.seq_len, micro, ranks, device),
        Samples(engine, evaluation_mode, token_set, tokenizer, run.samples, run.seed, device),
    ]
    if ranks.is_main:
        hooks += [Console(first_step), JsonLines(directory.metrics, first_step)]
        hooks += [TensorBoard(directory.tensorboard, first_step)]
    return hooks
