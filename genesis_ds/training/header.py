"""The lines that a run begins with: what is about to be trained, on what, and how."""

import dataclasses

import torch

from genesis_ds.config import CompileConfig, DataConfig, RunConfig
from genesis_ds.config.changes import flat
from genesis_ds.config.resolve import ResolvedRun
from genesis_ds.data.coverage import gaps
from genesis_ds.data.run_data import RunData, Text
from genesis_ds.engine.ranks import Ranks
from genesis_ds.errors import shown
from genesis_ds.memory.shapes import run_parameters
from genesis_ds.model.attention_proof import prove_attention
from genesis_ds.training.open_run import OpenRun
from genesis_ds.training.tasks import describe


def header(opened: OpenRun, ranks: Ranks, device: torch.device) -> list[str]:
    """Return the lines that a run begins with. Runs the attention kernels to say which they are."""
    run, tasks = opened.run, opened.tasks
    model, batch, ds_config = run.model, run.config.batch, run.ds_config
    is_fp32 = ds_config.precision == "fp32"
    dtype = torch.float32 if is_fp32 else torch.bfloat16
    own, proofs = run.config.extensions.model, {}
    if own is None:
        proofs["attention"] = prove_attention(model, device, dtype, min(batch.seq_len, 512))
    if own is None and run.heads:
        proofs["of verses"] = prove_attention(model, device, dtype, min(batch.seq_len, 512), packed=True)
    trunk = sum(weight.numel for weight in run_parameters(run) if weight.name.startswith("base."))
    tokens = batch.global_batch_size * batch.seq_len
    data = _languages(opened.data, batch.seq_len)
    if (epochs := tasks.epochs(run.n_steps * batch.global_batch_size)) is not None:
        per_epoch = f"{tasks.sequences_per_epoch:,} windows of {batch.seq_len} tokens an epoch"
        data.append(f"{per_epoch}; the run is {epochs:.2f} epochs")
    return [
        f"model      {model.n_layers} layers x {model.dim}, {own or model.norm}, {trunk:,} parameters",
        *(f"data       {line}" for line in data),
        f"tasks      {describe(tasks.mixture)}",
        *(f"tasks      {notice}" for notice in tasks.notices),
        f"step       {tokens:,} tokens = {batch.micro_batch_size} windows x {ranks.world_size} ranks x "
        f"{ds_config.gradient_accumulation_steps} accumulation",
        *(f"step       {line}" for line in (*never_begins(run), *not_compiled(run.config, device))),
        *(f"recipe     {line}" for line in recipe(in_fp32(run.config) if is_fp32 else run.config)),
        *(
            f"{name:<10} {proof.kernel}, relative error {proof.max_error:.1e} against fp32 math"
            for name, proof in proofs.items()
        ),
        f"device     {device.type} x {ranks.world_size}, ZeRO-{ds_config.zero_stage}, {ds_config.precision}, "
        f"{ds_config.placement}",
        *(f"ds_config  {note}" for note in ds_config.notes),
    ]


def in_fp32(config: RunConfig) -> RunConfig:
    """Return the run without what is of bf16 master weights alone, which training in fp32 drops."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, master_rounding="auto"))


def recipe(config: RunConfig) -> list[str]:
    """Return what the run says, other than the defaults, of its optimizer and of what regularises; a line a section."""
    order = config.data.chapter_order
    lines = [f"data: chapter_order {order}"] if order != DataConfig.chapter_order else []
    for name in ("optimizer", "schedule", "regularisation", "masking", "distill"):
        section = getattr(config, name)
        default = flat(dataclasses.asdict(type(section)()))
        found = flat(dataclasses.asdict(section))
        given = [f"{key} {shown(value)}" for key, value in found.items() if value != default.get(key)]
        lines += [f"{name}: {', '.join(given)}"] if given else []
    return lines


def never_begins(run: ResolvedRun) -> list[str]:
    """Return what is to begin only after the last step of the run, a line each."""
    average, masking = run.config.optimizer.weight_average, run.config.masking
    begins = "optimizer.weight_average.start"
    starts = {begins: run.steps(average.start, begins) if average.is_on else 0}
    starts["masking.start"] = masking.start if masking.is_on else 0
    return [
        f"{key} {start:,} is not before the end of the run, {run.n_steps:,} steps: it never begins; lower it"
        for key, start in starts.items()
        if start >= run.n_steps
    ]


def not_compiled(config: RunConfig, device: torch.device) -> list[str]:
    """Return what is given of compiled blocks and has no effect on this device, a line each."""
    said, default = config.compile, CompileConfig()
    compiles = config.compiles_on(device.type)
    without = {"activation_memory_budget": compiles, "mode": compiles and device.type == "cuda"}
    return [
        f"compile.{key} {value} changes nothing: " + ("a CPU has no CUDA graphs" if compiles else "nothing is compiled")
        for key, has_effect in without.items()
        if (value := getattr(said, key)) != getattr(default, key) and not has_effect
    ]


def _languages(data: RunData, seq_len: int) -> list[str]:
    """Return the languages of a text and what they lack, a line each."""
    return [data.languages, *gaps(data.token_set.manifest.tokens, seq_len)] if isinstance(data, Text) else []
