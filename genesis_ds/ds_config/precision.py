"""The dtypes of weights and master weights, where the run and the ds_config both have a say."""

from typing import Any, Literal

from genesis_ds.ds_config.lint import is_bf16, shown
from genesis_ds.ds_config.settings import Accelerator, RunSettings
from genesis_ds.errors import UserError

Precision = Literal["bf16", "fp32"]


def resolve_precision(
    config: dict[str, Any], where: str, run: RunSettings, accelerator: Accelerator
) -> tuple[Precision, str]:
    """Choose the dtype of the weights and write it into config["bf16"]; return it with a note of why.

    Raises UserError where the run and the ds_config contradict each other.
    """
    asked: bool | None = config.get("bf16", {}).get("enabled")
    if run.precision == "bf16" and asked is False:
        raise UserError(_precision_conflict(where, asked, run))
    if run.precision == "fp32" and asked and accelerator != "cpu":
        raise UserError(_precision_conflict(where, asked, run))
    if run.precision == "bf16":
        if config.get("torch_autocast", {}).get("enabled"):
            raise UserError(
                f'{run.where}: precision = "bf16", but {where}: torch_autocast.enabled = true; disable torch_autocast '
                'or set precision to "fp32", which keeps fp32 weights under autocast'
            )
        config.setdefault("bf16", {})["enabled"] = True
        return "bf16", f"precision bf16: {run.where} asks for it"
    if asked and accelerator == "cuda":
        return "bf16", f"precision bf16: {where}: bf16.enabled is true"
    if not asked:
        return "fp32", f"precision fp32: {where} does not enable bf16"
    dropped = _drop_bf16(config)
    reason = f"{run.where} asks for it" if run.precision == "fp32" else "bf16 is 11-13 times slower on a CPU"
    also = f" ({where}: {', '.join(dropped)} dropped with it)" if dropped else ""
    return "fp32", f"precision fp32 instead of bf16 on the cpu accelerator: {reason}{also}"


def _precision_conflict(where: str, asked: bool | None, run: RunSettings) -> str:
    return (
        f'{run.where}: precision = "{run.precision}", but {where}: bf16.enabled = {shown(asked)}; '
        'change one of them, or set precision to "auto" to follow the ds_config'
    )


def _drop_bf16(config: dict[str, Any]) -> list[str]:
    """Turn bf16 off and remove what only makes sense with it; returns the dotted keys that were removed."""
    dropped = [f"bf16.{key}" for key in config["bf16"] if key != "enabled"]
    config["bf16"] = {"enabled": False}
    data_types = config.get("data_types", {})
    for key in ("grad_accum_dtype", "param_dtype"):
        if data_types.get(key) is not None and is_bf16(data_types[key]):
            del data_types[key]
            dropped.append(f"data_types.{key}")
    if config.get("communication_data_type") == "bf16":
        del config["communication_data_type"]
        dropped.append("communication_data_type")
    return dropped


def require_master_rounding(config: dict[str, Any], where: str, run: RunSettings) -> None:
    """Raise UserError unless the run and the ds_config both ask for bf16 master weights, or neither does."""
    asked = bool(config.get("bf16", {}).get("bf16_master_weights_and_grads"))
    rounding = run.optimizer.master_rounding
    if asked and rounding == "none":
        raise UserError(
            f"{where}: bf16.bf16_master_weights_and_grads = true: DeepSpeed rounds the masters to the nearest bf16, so "
            "updates below half a step of it are lost, and at small rates most of the learning; remove it, or ask for "
            f"that by name: optimizer.master_rounding: nearest in {run.where}"
        )
    if rounding != "none" and not asked:
        raise UserError(
            f'{run.where}: optimizer.master_rounding = "{rounding}", but {where} keeps no bf16 master weights; remove '
            "it, or set bf16.bf16_master_weights_and_grads to true"
        )
