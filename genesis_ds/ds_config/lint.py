"""Checks of a ds_config on its own: typos, types, ranges, and settings that DeepSpeed would ignore in silence.

DeepSpeed 0.19.8 says nothing about most of these: it drops "auto" inside zero_optimization, keeps an NVMe optimizer of
stage 2 in RAM, and takes a misspelt top-level section for a comment. s12 and s3 are its
runtime/zero/stage_1_and_2.py and stage3.py.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genesis_ds.ds_config import rules
from genesis_ds.ds_config.schema import DTYPES, TOP, ZERO, Key, Table, setting
from genesis_ds.errors import UserError, nearest


@dataclass(frozen=True)
class Finding:
    """One line about one key of one file. A fatal one stops the run; the others are said and passed over."""

    where: str
    key: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.key}{self.text}"


def lint(ds_config: dict[str, Any], where: str) -> list[Finding]:
    """Return every finding about this ds_config; `where` is the file that the messages name.

    A key that DeepSpeed ignores is fatal when its value differs from DeepSpeed's default (someone asked for something
    they would not get) and a remark when it does not. The rules about combinations run only on a well-formed dict.
    """
    findings = [Finding(where, key, text) for key, text in _malformed(ds_config, TOP, "")]
    if findings:
        return findings
    findings += [Finding(where, key, text) for key, text in _conflicts(ds_config)]
    conflicting = {finding.key for finding in findings}
    findings += [finding for finding in _ignored(ds_config, where) if finding.key not in conflicting]
    return findings + _remarks(ds_config, where)


def check(ds_config: dict[str, Any], where: str) -> list[Finding]:
    """Raise UserError for the first fatal finding, naming the keys of the others; return the remarks."""
    findings = lint(ds_config, where)
    fatal = [finding for finding in findings if finding.fatal]
    if fatal:
        others = ", ".join(finding.key for finding in fatal[1:])
        raise UserError(f"{fatal[0]}" + (f" (also wrong: {others})" if others else ""))
    return findings


def shown(value: Any) -> str:
    """Return a value as it stands in the JSON file, cut to one readable line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _malformed(section: dict[str, Any], table: Table, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield unknown, refused and mistyped keys at every level, as (dotted key, what is wrong)."""
    for name, value in section.items():
        dotted = prefix + name
        if dotted in rules.REFUSED:
            yield dotted, f": {rules.REFUSED[dotted]}"
        elif name not in table:
            yield dotted, f": unknown key; {nearest(name, table)}"
        elif problem := _problem(table[name], value):
            yield dotted, f" = {shown(value)}: {problem}"
        elif value is True and dotted in rules.REFUSED_WHEN_TRUE:
            yield dotted, f" = true: {rules.REFUSED_WHEN_TRUE[dotted]}"
        elif isinstance(value, dict):
            yield from _malformed(value, table[name].keys or {}, dotted + ".")


def _problem(key: Key, value: Any) -> str | None:
    """Return what is wrong with one value, ending with what is allowed; None when it is right."""
    if value == "auto" and (key.auto or key.default == "auto"):
        return None
    allowed = _allowed(key)
    if value == "auto" and key.kind not in ("string", "section"):
        return f'DeepSpeed drops "auto" here and takes its own default ({shown(key.default)}); write {allowed}'
    if value is None:
        return None if key.default is None and key.kind != "section" else f"must be {allowed}"
    return None if _fits(key, value) else f"must be {allowed}"


def _fits(key: Key, value: Any) -> bool:
    """Return whether a value has the key's type and lies in its range. 5e8 is an int here, as it is for DeepSpeed."""
    if key.kind == "bool":
        return isinstance(value, bool)
    if key.kind == "choice":
        return any(value == choice and type(value) is type(choice) for choice in key.choices)
    if key.kind == "section":
        return isinstance(value, dict)
    if key.kind == "string":
        return isinstance(value, str)
    if key.kind == "strings":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key.kind == "numbers":
        return isinstance(value, list) and len(value) == 2 and all(_in_range(key, item) for item in value)
    return _in_range(key, value) and (key.kind == "number" or float(value).is_integer())


def _in_range(key: Key, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return (
        (key.at_least is None or value >= key.at_least)
        and (key.at_most is None or value <= key.at_most)
        and (key.above is None or value > key.above)
    )


def _allowed(key: Key) -> str:
    """Return the values that a key takes, in words."""
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", key.at_least), ("at most", key.at_most), ("above", key.above))
        if bound is not None
    ]
    words = {
        "bool": "true or false",
        "int": "a whole number",
        "number": "a number",
        "numbers": "a list of two numbers",
        "string": "a string",
        "strings": "a list of strings",
        "section": "an object {...}",
        "choice": "one of " + ", ".join(shown(choice) for choice in key.choices),
    }[key.kind]
    return " ".join([words, " and ".join(bounds)]).strip() + (' or "auto"' if key.auto else "")


def zero_section(ds_config: dict[str, Any]) -> dict[str, Any]:
    """Return the section zero_optimization, empty where there is none."""
    section: dict[str, Any] = ds_config.get("zero_optimization", {})
    return section


def offload_device(ds_config: dict[str, Any], section: str) -> str:
    """Return the device of offload_optimizer or offload_param: "none", "cpu" or "nvme"."""
    return str(setting(ds_config, f"zero_optimization.{section}.device"))


def zero_stage(ds_config: dict[str, Any]) -> int:
    """Return the stage of ZeRO, 0 to 3."""
    return int(setting(ds_config, "zero_optimization.stage"))


def accumulates_in_fp32(ds_config: dict[str, Any]) -> bool:
    """Return whether data_types.grad_accum_dtype has gradients add up in fp32; unset, they do in the weights' dtype."""
    dtype = setting(ds_config, "data_types.grad_accum_dtype")
    return dtype is not None and not is_bf16(dtype)


def _conflicts(ds_config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings that are right alone and wrong together, as (dotted key, what is wrong)."""
    stage, bf16 = zero_stage(ds_config), ds_config.get("bf16", {})
    if bf16.get("enabled") and ds_config.get("torch_autocast", {}).get("enabled"):
        yield "bf16.enabled", " = true: torch_autocast.enabled is true too and DeepSpeed runs both; disable one"
    for section, key in (("bf16", "check_grad_overflow"), ("zero_optimization", "compute_grad_norm")):  # s12:3029-3044
        if stage in (1, 2) and setting(ds_config, f"{section}.{key}") is False:
            yield f"{section}.{key}", " = false: gradients that are not finite would be used in silence; remove the key"
    for section in rules.NVME_ONLY:
        dotted = f"zero_optimization.{section}"
        if offload_device(ds_config, section) != "nvme":
            continue
        if section == "offload_optimizer" and stage in (1, 2):  # s12:220 tells "none" from the rest, no more
            yield (
                f"{dotted}.device",
                (f' = "nvme": DeepSpeed keeps it in RAM at stage {stage}; write "cpu" or use stage 3'),
            )
        elif not zero_section(ds_config)[section].get("nvme_path"):
            yield f"{dotted}.nvme_path", ': missing; device "nvme" needs a directory, for example "nvme_swap"'
    ratio = setting(ds_config, "zero_optimization.offload_optimizer.ratio")
    if ratio < 1:
        yield (
            "zero_optimization.offload_optimizer.ratio",
            (
                f" = {ratio}: the part that stays on the GPU has an optimizer of its own (stage3.py:313), which the "
                "schedule does not reach and a checkpoint does not hold; remove the key"
            ),
        )
    if stage == 0 and ds_config.get("data_types", {}).get("grad_accum_dtype") is not None:
        accumulate, weights = ds_config["data_types"]["grad_accum_dtype"], "bf16" if bf16.get("enabled") else "fp32"
        if is_bf16(accumulate) != (weights == "bf16"):
            yield (
                "data_types.grad_accum_dtype",
                (
                    f" = {shown(accumulate)}: stage 0 accumulates in the dtype of the weights, {weights}; "
                    "remove the key or use a higher stage"
                ),
            )
    yield from _bf16_conflicts(bf16, stage, offload_device(ds_config, "offload_optimizer"))


def _bf16_conflicts(bf16: dict[str, Any], stage: int, device: str) -> Iterator[tuple[str, str]]:
    """Yield what the low-memory options of bf16 lack (runtime/config.py:706-714, runtime/base_optimizer.py:510)."""
    master, states = bf16.get("bf16_master_weights_and_grads"), bf16.get("bf16_optimizer_states")
    if states and not master:
        yield "bf16.bf16_optimizer_states", " = true: needs bf16.bf16_master_weights_and_grads = true too"
    if master and not bf16.get("enabled"):
        yield "bf16.bf16_master_weights_and_grads", " = true: needs bf16.enabled = true"
    elif master and stage == 0:
        yield "bf16.bf16_master_weights_and_grads", " = true: needs zero_optimization.stage 1, 2 or 3"
    elif master and not states and device == "none":
        yield (
            "bf16.bf16_master_weights_and_grads",
            (' = true: needs zero_optimization.offload_optimizer.device "cpu", or bf16.bf16_optimizer_states = true'),
        )


def is_bf16(dtype: str) -> bool:
    """Return whether a dtype, one of DTYPES, is bfloat16."""
    assert dtype in DTYPES
    return "bf" in dtype


def _ignored(ds_config: dict[str, Any], where: str) -> Iterator[Finding]:
    """Yield a finding for each key that is present and that DeepSpeed does not read in this configuration."""
    for dotted, reason in _unread(ds_config):
        section, table = ds_config, TOP
        *path, name = dotted.split(".")
        for part in path:
            section, table = section.get(part, {}), table[part].keys or {}
        if name not in section:
            continue
        fatal = not _says_nothing(table[name], section[name])
        verdict = "" if fatal else " (it is DeepSpeed's default, so nothing is lost)"
        yield Finding(where, dotted, f" = {shown(section[name])}: ignored: {reason}; remove it{verdict}", fatal)


def _says_nothing(key: Key, value: Any) -> bool:
    """Return whether a value only repeats DeepSpeed's default."""
    if isinstance(value, dict):
        return all(_says_nothing((key.keys or {})[name], inner) for name, inner in value.items())
    return bool(value == key.default)


def _unread(ds_config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys that DeepSpeed does not read in this configuration, each with the reason."""
    stage = zero_stage(ds_config)
    yield from rules.NEVER_READ.items()
    for name in ZERO:
        stages = rules.ZERO_STAGES.get(name, (stage,))
        if stage not in stages:
            yield f"zero_optimization.{name}", f"DeepSpeed reads it at stage {_either(stages)}, and stage is {stage}"
    for section, names in rules.NVME_ONLY.items():
        device = offload_device(ds_config, section)
        if device != "nvme" and stage in rules.ZERO_STAGES[section]:
            for name in names:
                yield f"zero_optimization.{section}.{name}", f'it is read with device "nvme", and device is "{device}"'
    if "nvme" not in (offload_device(ds_config, section) for section in rules.NVME_ONLY):
        yield "aio", 'it is read only with an offload device "nvme"'
    if stage in (0, 3):
        # s12:3029 is the only reader; s3 always looks for an overflow.
        yield "bf16.check_grad_overflow", f"DeepSpeed reads it at stage 1 or 2, and stage is {stage}"
    bf16_optimizer = stage == 1 and accumulates_in_fp32(ds_config)
    if not (bf16_optimizer and offload_device(ds_config, "offload_optimizer") == "none"):
        # engine:2305-2310: the dedicated BF16_Optimizer, whose bf16_optimizer.py:230 is the only reader.
        yield "bf16.immediate_grad_update", "it is read at stage 1 with data_types.grad_accum_dtype fp32, no offload"


def _either(stages: tuple[int, ...]) -> str:
    *first, last = map(str, stages)
    return f"{', '.join(first)} or {last}" if first else last


def _remarks(ds_config: dict[str, Any], where: str) -> list[Finding]:
    """Return remarks on what works but will surprise: an NVMe buffer pool that is too small for its pipeline."""
    optimizer = zero_section(ds_config).get("offload_optimizer", {})
    if optimizer.get("device") != "nvme":
        return []
    # Weights, gradient and two moments of a sub-group, for the one in work, the one read ahead, the one written behind
    # (runtime/swap_tensor/pipelined_optimizer_swapper.py:150-254).
    needed = 4 * (1 + bool(optimizer.get("pipeline_read")) + bool(optimizer.get("pipeline_write")))
    count = optimizer.get("buffer_count", 4)
    if count >= needed:
        return []
    return [
        Finding(
            where,
            "zero_optimization.offload_optimizer.buffer_count",
            f" = {count}: with this pipelining DeepSpeed holds up to {needed} buffers and stops when it runs out; "
            f"write {needed}",
            fatal=False,
        )
    ]
