"""The dtypes of weights and master weights, where the run and the ds_config both have a say."""

from typing import Any, Literal

from genesis_ds.ds_config.lint import is_bf16, offload_device, shown
from genesis_ds.ds_config.settings import Accelerator, RunSettings
from genesis_ds.errors import UserError

Precision = Literal["bf16", "fp32"]
MasterRounding = Literal["none", "nearest", "stochastic", "kahan"]


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
    if run.optimizer.master_rounding not in ("auto", "none"):
        dropped.append(f"optimizer.master_rounding of {run.where}")
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


def resolve_master_rounding(config: dict[str, Any], where: str, run: RunSettings) -> tuple[MasterRounding, list[str]]:
    """Return how master weights are rounded, with a note where they are bf16; "none": they are fp32.

    Raises UserError where the run asks for a rounding that the ds_config's masters cannot have.
    """
    asked, bf16 = run.optimizer.master_rounding, config.get("bf16", {})
    named = f'{run.where}: optimizer.master_rounding = "{asked}"'
    if not bf16.get("bf16_master_weights_and_grads"):
        if asked not in ("auto", "none"):
            raise UserError(
                f"{named}, but {where} keeps no bf16 master weights; remove it, or set "
                "bf16.bf16_master_weights_and_grads to true"
            )
        return "none", []
    rounding: MasterRounding = "stochastic" if asked == "auto" or asked == "none" else asked
    if rounding == "nearest":
        return rounding, [
            f"master weights bf16, rounded to the nearest: {named}; updates below half a step of bf16 are lost, and at "
            "small rates most of the learning"
        ]
    on_host = offload_device(config, "offload_optimizer") == "cpu"
    if not (on_host and bf16.get("bf16_optimizer_states")):
        lacking = "bf16.bf16_optimizer_states = true"
        if not on_host:
            lacking = 'zero_optimization.offload_optimizer.device = "cpu"'
        raise UserError(
            f"{where}: bf16.bf16_master_weights_and_grads = true: small updates are kept (optimizer.master_rounding: "
            f"{rounding}) only with {lacking}; set it, or optimizer.master_rounding: nearest in {run.where}, by which "
            "updates below half a step of bf16 are lost"
        )
    how = "rounded stochastically" if rounding == "stochastic" else "with a compensation (kahan)"
    return rounding, [f"master weights and moments bf16, {how}: {where}: bf16.bf16_master_weights_and_grads is true"]
