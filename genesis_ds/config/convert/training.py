"""What of an earlier TOML is decided by several keys together: batch, schedule, masked input, precision, text."""

import math
import shlex

from genesis_ds.config.convert.earlier_toml import EarlierToml, Key
from genesis_ds.config.convert.outcome import Outcome

CORPUS = "corpora/earlier"
"""Where the command imports a bible_dir to."""
VAL_INTERVAL = 500
"""Steps between evaluations in the newest trainer, where its TOML does not say it."""
STRATEGIES = {
    "word": "word",
    "whole_word": "word",
    "wwm": "word",
    "span": "span",
    "random": "random",
    "token": "random",
}
"""Strategy of [masking] -> masking.kind."""
DS_CONFIG = "ds_configs/zero2.json"
"""The shipped ds_config nearest to the earlier trainers: weights and optimizer on the GPU."""


def batch_size(key: Key, toml: EarlierToml) -> Outcome:
    """Return the batch, of a micro-batch unless the first trainer accumulates."""
    fields = {"batch.micro_batch_size": key.value}
    if toml.find("gradient_accumulation_steps"):
        return Outcome(fields)
    return Outcome(fields | {"batch.global_batch_size": key.value})


def accumulation(key: Key, toml: EarlierToml) -> Outcome:
    """Return the batch of the first trainer's key, which accumulates."""
    size, steps = toml.whole("batch_size", 1), toml.whole(key.name, 1)
    fields = {"batch.micro_batch_size": size, "batch.global_batch_size": size * steps}
    return Outcome(fields, f"{size} x {steps}; accumulation is derived from it")


def no_accumulation(key: Key, toml: EarlierToml) -> Outcome:
    """Say of the newest trainer's key, which does not accumulate, what it does."""
    steps, size = toml.whole(key.name, 1), toml.whole("batch_size", 1)
    if steps == 1:
        return Outcome(note="a step is one micro-batch")
    length = toml.find("max_steps") or toml.find("steps")
    more = ""
    if length is not None:
        count = toml.whole(length.name, 1)
        more = f"; {count:,} steps were {count * steps:,} updates, which --max_steps {count * steps} makes"
    return Outcome(
        {"batch.global_batch_size": size} if toml.find("batch_size") else {},
        f"not {size * steps}: the trainer there updated the weights after each of a step's {steps} micro-batches, and "
        f"accumulated nothing{more}",
    )


def schedule(key: Key, toml: EarlierToml) -> Outcome:
    """Return the shape of the learning rate; with plateau_* keys a constant one falls on a plateau."""
    if key.value == "cosine":
        return Outcome({"schedule.kind": "cosine"})
    if key.value == "plateau" or (key.value == "constant" and toml.find("plateau_lr_drop")):
        return Outcome({"schedule.kind": "plateau"})
    if key.value == "constant":
        return Outcome({"schedule.kind": "constant"})
    return Outcome(note=f"schedule.kind is cosine, constant or plateau; no {key.value!r}", is_lost=True)


def plateau(key: Key, toml: EarlierToml) -> Outcome:
    """Return the fall of the rate on a plateau, where the schedule is no cosine, which cannot have one."""
    if key.name == "plateau_lr_patience" and toml.find("plateau_lr_drop") and not _falls(toml):
        return Outcome(note="as plateau_lr_drop", is_lost=True)
    every = toml.whole("val_interval", toml.whole("eval_interval", VAL_INTERVAL))
    patience = math.ceil(toml.whole("plateau_lr_patience", 1000) / every)
    if not _falls(toml):
        instead = f"schedule: {{kind: plateau, factor: {toml.get('plateau_lr_drop') or 0.5}, patience: {patience}}}"
        return Outcome(
            note=f"the schedule is a cosine, which set the rate anew at every step there too; for a fall: {instead}",
            is_lost=True,
        )
    if key.name == "plateau_lr_drop":
        return Outcome({"schedule.factor": key.value})
    return Outcome({"schedule.patience": patience}, f"evaluations, of {every} steps each, of the validation loss")


def _falls(toml: EarlierToml) -> bool:
    return toml.get("lr_schedule") in ("constant", "plateau")


def masked(key: Key, toml: EarlierToml) -> Outcome:
    """Return the masked input of a key wwm_* or span_*. Where a file has both, words come first, and stay."""
    phase, _, name = key.name.partition("_")
    if toml.get("wwm_enabled" if phase == "wwm" else "span_enabled") is False:
        return Outcome(note=f"{phase}_enabled is false")
    if toml.find("enabled", "masking") or toml.find("strategy", "masking"):
        return Outcome(note="[masking] says what is masked", is_lost=True)
    if name in ("window", "threshold"):
        return Outcome(note="masking begins at a step here (masking.start), not when the loss stalls", is_lost=True)
    if name in ("min_len", "max_len"):
        return Outcome(note="spans have 1 to 10 words here, 3.8 on average", is_lost=True)
    if phase == "span" and any(other.name.startswith("wwm_") for other in toml.keys):
        first = next(other.name for other in toml.keys if other.name.startswith("span_"))
        return Outcome(note=_second_phase(toml) if key.name == first else f"as {first}", is_lost=True)
    kind = {"masking.kind": "word" if phase == "wwm" else "span"}
    if name == "enabled":
        return Outcome(kind)
    if name == "mask_prob":
        return Outcome(kind | {"masking.share": key.value})
    if name == "ramp_steps":
        return Outcome(kind | {"masking.ramp": key.value}, "from 0; from 0.05 there")
    return Outcome(kind | {"masking.start": key.value}, "there from the first check after it at which the loss stalled")


def _second_phase(toml: EarlierToml) -> str:
    start = toml.whole("wwm_trigger_steps", 5000) + toml.whole("span_trigger_steps", 5000)
    flags = f"--masking.kind span --masking.share {toml.get('span_mask_prob') or 0.15} --masking.start {start}"
    return f"a run has one kind of mask at a time; for spans from step {start}, stop there and go on with {flags}"


def strategy(key: Key, toml: EarlierToml) -> Outcome:
    """Return the kind of mask of [masking]."""
    if toml.get("enabled", "masking") is False:
        return Outcome(note="enabled is false")
    if str(key.value) not in STRATEGIES:
        return Outcome(note=f"masking.kind is word, span or random; no {key.value!r}", is_lost=True)
    return Outcome({"masking.kind": STRATEGIES[str(key.value)]})


def share(key: Key, toml: EarlierToml) -> Outcome:
    """Return the share of masked tokens of [masking]."""
    if toml.get("enabled", "masking") is False:
        return Outcome(note="enabled is false")
    if str(toml.get("strategy", "masking")) not in STRATEGIES:
        return Outcome(note="nothing is masked without a strategy", is_lost=True)
    return Outcome({"masking.share": key.value})


def precision(key: Key, toml: EarlierToml) -> Outcome:
    """Say what the ds_config, which owns the precision, makes of it."""
    if key.value == "bf16":
        return Outcome({"precision": "auto"}, f"the ds_config owns it: bf16 in {DS_CONFIG} and all that are shipped")
    if key.value == "fp32":
        why = "the ds_config owns it; for fp32 copy one without bf16.enabled, and give --ds_config COPY.json"
    else:
        why = f"weights are bf16 or fp32 here, as the ds_config says: bf16 in {DS_CONFIG}"
    return Outcome(note=why, is_lost=True)


def evaluation(key: Key, toml: EarlierToml) -> Outcome:
    """Return the interval of evaluations; beside a val_interval it is that of what costs more."""
    if toml.find("val_interval"):
        return Outcome({"evaluation.tasks_every": key.value}, "of the tasks on verses")
    return Outcome({"evaluation.every": key.value})


def corpus(key: Key, toml: EarlierToml) -> Outcome:
    """Return the corpus that an import of the folder makes."""
    command = f"genesis-ds corpus import {shlex.quote(str(key.value))} --output {CORPUS}"
    return Outcome({"data.corpus": CORPUS}, f"import it first: {command}")


def task_weight(key: Key, toml: EarlierToml) -> Outcome:
    """Return the weight of a task by its name here."""
    name = key.name.removeprefix("weights.")
    return Outcome({f"tasks.{'cross_reference' if name == 'cross_ref' else name}": key.value})


def unsaid_tasks(toml: EarlierToml) -> Outcome | None:
    """Return language modelling alone where a file has no [tasks]."""
    if any(key.table == "tasks" for key in toml.keys):
        return None
    return Outcome({"tasks.lm": 1.0}, "language modelling alone, as there")


def unsaid_warmup(toml: EarlierToml) -> Outcome | None:
    """Return the newest trainer's own warm-up where the file has none."""
    if toml.is_of_first_trainer or toml.find("warmup_steps"):
        return None
    return Outcome({"schedule.warmup_steps": 2000}, "the newest trainer's default")
