"""The table of what becomes of every key of an earlier TOML, and of what such a file leaves unsaid."""

import shlex
from collections.abc import Callable

from genesis_ds.config.convert import shapes, training
from genesis_ds.config.convert.earlier_toml import MERGED, EarlierToml
from genesis_ds.config.convert.outcome import Outcome, Rule, becomes, by_value, fixed, flag, lost, nothing

ALWAYS = "always written, to runs/NAME, for TensorBoard and as metrics.jsonl"
RESUMES = "a second start goes on from the newest good checkpoint"
BOOLEAN = lost("it is neither true nor false")
_compiles = by_value({True: fixed("compile.when", "gpu"), False: fixed("compile.when", "never")}, BOOLEAN)
_masked: dict[str, Rule] = {
    f"{phase}_{name}": training.masked
    for phase, names in {
        "wwm": ("enabled", "trigger_steps", "window", "threshold", "mask_prob", "ramp_steps"),
        "span": ("enabled", "trigger_steps", "window", "threshold", "mask_prob", "ramp_steps", "min_len", "max_len"),
    }.items()
    for name in names
}
_of_training: dict[str, Rule] = {
    "mode": shapes.mode,
    "batch_size": training.batch_size,
    "gradient_accumulation_steps": training.accumulation,
    "grad_accum_steps": training.no_accumulation,
    "max_steps": becomes("max_steps"),
    "steps": becomes("max_steps"),
    "seq_len": shapes.data_seq_len,
    "max_seq_len": shapes.data_seq_len,
    "learning_rate": becomes("optimizer.lr"),
    "weight_decay": becomes("optimizer.weight_decay", "not of norms and biases"),
    "grad_clip": becomes("optimizer.gradient_clipping"),
    "warmup_steps": becomes("schedule.warmup_steps"),
    "lr_schedule": training.schedule,
    "min_lr_ratio": becomes("schedule.min_lr_ratio"),
    "plateau_lr_drop": training.plateau,
    "plateau_lr_patience": training.plateau,
    "seed": becomes("seed"),
    "precision": training.precision,
    "compile": _compiles,
    "compile_model": _compiles,
    "use_cuda_graph": by_value(
        {True: fixed("compile.mode", "reduce-overhead"), False: fixed("compile.mode", "default")}, BOOLEAN
    ),
    "flash_attention": by_value(
        {
            True: fixed("model.attention", "auto", "flash-attn where it is installed, otherwise torch's"),
            False: fixed("model.attention", "sdpa"),
        },
        BOOLEAN,
    ),
    "gradient_checkpointing": by_value(
        {
            True: fixed("activation_checkpointing.mode", "block"),
            False: fixed("activation_checkpointing.mode", "none"),
        },
        BOOLEAN,
    ),
    "save_interval": becomes("checkpoint.every"),
    "autoresume_best": by_value(
        {True: fixed("resume", "auto", f"{RESUMES}, not from the best"), False: fixed("resume", "never")},
        BOOLEAN,
    ),
    "resume": by_value({True: fixed("resume", "auto", RESUMES), False: fixed("resume", "never")}, BOOLEAN),
    "log_interval": becomes("log_every"),
    "val_interval": becomes("evaluation.every"),
    "eval_interval": training.evaluation,
    "multilingual_log_interval": lost(
        "no training loss of single languages; evaluation.every measures each language's bits per byte"
    ),
    "enable_validation": by_value(
        {True: nothing("validation is always measured")}, lost("evaluation.every: 0 leaves only that at the end")
    ),
    "enable_extensive_eval": by_value(
        {True: nothing("the tasks are judged every evaluation.tasks_every steps")},
        lost("evaluation.tasks_every: 0 leaves only that at the end"),
    ),
    "eval_recon_samples": lost("nothing is reconstructed; `samples` writes text, memorisation is measured"),
    "eval_aux_samples": lost("tasks are judged on evaluation.max_verses verses, 1,200 by default"),
    "detect_grokking": by_value(
        {True: fixed("grokking.rule", "states"), False: fixed("grokking.rule", "none")}, BOOLEAN
    ),
    "enable_tensorboard": by_value({True: nothing(ALWAYS)}, lost(ALWAYS)),
    "track_grad_norms": by_value({True: nothing("every line and record has the gradient's norm")}, lost(ALWAYS)),
    "verbose_logging": nothing("the console shows what matters, metrics.jsonl has all"),
    "bible_dir": training.corpus,
    "cache_path": nothing("compiled text is kept in data.token_sets, by its fingerprint"),
    "target_languages": becomes("data.languages"),
    "num_workers": nothing("tokens are mapped into memory, no workers load them"),
    "pin_memory": nothing("tokens are mapped into memory, no workers load them"),
    "use_libuv": nothing("the launcher chooses how ranks meet"),
    "device": nothing("a run takes the GPUs that are there, or the CPU"),
    "fsdp": by_value(
        {False: nothing("weights are only split where the ds_config says so")},
        lost("the ds_config splits weights: --ds_config ds_configs/zero3.json"),
    ),
    **_masked,
}

RULES: dict[str, dict[str, Rule]] = {
    **dict.fromkeys(MERGED, _of_training),
    "model": {
        "name": lost("a run is named after its YAML"),
        "vocab_size": shapes.vocab_size,
        "n_layers": becomes("model.n_layers"),
        "dim": becomes("model.dim"),
        "n_heads": becomes("model.n_heads"),
        "n_kv_heads": becomes("model.n_kv_heads"),
        "intermediate_size": shapes.intermediate_size,
        "max_seq_len": shapes.model_seq_len,
        "norm_type": by_value(
            {"deepnorm": fixed("model.norm", "deepnorm"), "rmsnorm": fixed("model.norm", "rmsnorm")},
            lost("model.norm is deepnorm or rmsnorm, and deepnorm unless you say another"),
        ),
        "rope_theta": becomes("model.rope_theta"),
        "tie_embeddings": becomes("model.tie_embeddings"),
    },
    "tasks": {
        prefix + name: training.task_weight
        for prefix in ("", "weights.")
        for name in ("lm", "coherence", "cross_ref", "cross_reference", "paraphrase")
    },
    "masking": {
        "enabled": by_value({True: nothing("strategy says what is masked")}, nothing("nothing is masked by default")),
        "strategy": training.strategy,
        "base_probability": training.share,
    },
    "checkpoint": {
        "interval": becomes("checkpoint.every"),
        "dir": lost("checkpoints are in output_dir/NAME/checkpoints"),
        "export_format": lost("an export is a command of its own: genesis-ds checkpoint export --to safetensors|hf"),
        "enable": by_value({True: nothing("a run is always saved")}, lost("a run is always saved at its end")),
    },
    "inference": {
        "device": flag("--device"),
        "max_tokens": flag("--max_new_tokens"),
        "temperature": flag("--temperature"),
        "top_k": flag("--top_k"),
        "top_p": flag("--top_p"),
        "repetition_penalty": flag("--repetition_penalty"),
        "stop_sequences": lambda key, toml: Outcome(flags=("--stop", *map(quoted, listed(key.value)))),
        "stream_output": by_value({True: nothing("text is written as it comes")}, lost("text is written as it comes")),
        "show_probs": by_value(
            {True: lambda key, toml: Outcome(flags=("--show_probs",)), False: nothing("not shown by default")},
            BOOLEAN,
        ),
    },
}
"""Table -> its keys -> what becomes of them."""
ALIASES = {
    "steps": "max_steps",
    "max_seq_len": "seq_len",
    "compile": "compile_model",
    "grad_accum_steps": "gradient_accumulation_steps",
}
"""Key -> the one that decides where a file has both."""
UNSAID: dict[str, Callable[[EarlierToml], Outcome | None]] = {
    "mode": shapes.unsaid_sizes,
    "tied embeddings": shapes.ties,
    "sequence length": shapes.unsaid_seq_len,
    "samples": shapes.short_samples,
    "warmup_steps": training.unsaid_warmup,
    "tasks": training.unsaid_tasks,
}
"""What a file may leave unsaid -> what becomes of it then."""


def quoted(word: object) -> str:
    """Return a word as a shell reads it, line breaks in it too."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    known = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
    escaped = "".join(known.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
    return f"$'{escaped}'"


def listed(value: object) -> list[object]:
    """Return a list as it is, and a single value as one."""
    return value if isinstance(value, list) else [value]
