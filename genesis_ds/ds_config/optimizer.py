"""Which implementation of its optimizer a run gets, and the keys of the ds_config that have DeepSpeed use it."""

from typing import Any, Literal

from genesis_ds.ds_config.lint import offload_device, zero_stage
from genesis_ds.ds_config.settings import Accelerator, RunSettings
from genesis_ds.errors import UserError
from genesis_ds.optimizers.registry import ADAMW, MUON

Implementation = Literal["cpu_adam", "torch"]
INSTALL_COMPILER = "install a C++ compiler and ninja: sudo apt install build-essential && pip install ninja"


def choose_implementation(
    config: dict[str, Any], where: str, run: RunSettings, *, accelerator: Accelerator, cpu_adam_available: bool
) -> tuple[Implementation, str]:
    """Choose which AdamW updates the weights; return it with a note of why. Any other optimizer is "torch".

    "auto" takes DeepSpeedCPUAdam for an offloaded optimizer of a GPU run. Raises UserError where DeepSpeedCPUAdam is
    needed and cannot be had, or is asked for and would not be used.
    """
    if run.optimizer.name != ADAMW:
        _require_no_adamw(config, where, run)
        return "torch", f"optimizer {run.optimizer.name}: {run.where} asks for it; zero_allow_untested_optimizer is set"
    offloaded = offload_device(config, "offload_optimizer") != "none"
    wanted = run.optimizer.implementation
    needs = _needs_cpu_adam(config)
    if wanted == "cpu_adam" and not offloaded:
        raise UserError(
            f'{run.where}: optimizer.implementation = "cpu_adam", but {where}: zero_optimization.offload_optimizer is '
            'not set; set its device to "cpu" or "nvme", or write implementation "auto" or "torch"'
        )
    if not cpu_adam_available and (wanted == "cpu_adam" or (needs and wanted == "auto")):
        who = f'{run.where}: optimizer.implementation = "cpu_adam"' if wanted == "cpu_adam" else f"{where}: {needs}"
        raise UserError(f"{who}: needs DeepSpeedCPUAdam, which cannot be built here; {INSTALL_COMPILER}")
    if needs and wanted == "torch":
        raise UserError(
            f'{run.where}: optimizer.implementation = "torch", but {where}: {needs}: needs DeepSpeedCPUAdam; '
            'write implementation "auto" or remove the option from the ds_config'
        )
    if (
        wanted == "cpu_adam"
        or needs
        or (wanted == "auto" and offloaded and accelerator == "cuda" and cpu_adam_available)
    ):
        return "cpu_adam", f"optimizer DeepSpeedCPUAdam: {where} offloads the optimizer"
    return "torch", f"optimizer torch.optim.AdamW(fused=True): {_why_torch(wanted, offloaded, accelerator)}"


def _require_no_adamw(config: dict[str, Any], where: str, run: RunSettings) -> None:
    """Raise UserError for what only AdamW serves, as another optimizer is asked for."""
    key = _needs_cpu_adam(config)
    if offload_device(config, "offload_optimizer") == "nvme":
        key = 'zero_optimization.offload_optimizer.device = "nvme"'
    if run.optimizer.name == MUON and zero_stage(config) == 3:
        raise UserError(
            f'{run.where}: optimizer.name = "{MUON}", but {where}: zero_optimization.stage = 3, where every matrix '
            "is cut between the ranks, and Muon needs it whole; take stage 2, or adamw"
        )
    if key:
        raise UserError(
            f'{run.where}: optimizer.name = "{run.optimizer.name}", but {where}: {key}, which is for {ADAMW} alone; '
            "change one of them"
        )


def _why_torch(wanted: str, offloaded: bool, accelerator: Accelerator) -> str:
    if wanted == "torch":
        return "the run's YAML asks for it"
    if not offloaded:
        return "the optimizer is not offloaded"
    if accelerator == "cpu":
        return "the cpu accelerator needs no build for it"
    return (
        "DeepSpeedCPUAdam cannot be built here; lost without it: bf16_master_weights_and_grads and "
        f"bf16_optimizer_states; {INSTALL_COMPILER}"
    )


def _needs_cpu_adam(config: dict[str, Any]) -> str | None:
    """Return the setting that only DeepSpeedCPUAdam serves, as 'key = value'; None when there is none.

    stage_1_and_2.py:331-341 and stage3.py:299-311 assert it.
    """
    if offload_device(config, "offload_optimizer") == "none":
        return None
    narrow = config.get("bf16", {}).get("bf16_master_weights_and_grads")
    return "bf16.bf16_master_weights_and_grads = true" if narrow else None


def write_optimizer(config: dict[str, Any], run: RunSettings, implementation: Implementation) -> None:
    """Write what has DeepSpeed use the run's optimizer, built by it or handed over."""
    if run.optimizer.name == ADAMW:
        config["optimizer"] = _adamw_section(run, implementation)
    else:
        config.pop("optimizer", None)  # it says nothing
        config["zero_allow_untested_optimizer"] = True  # engine.py:2298
    if implementation == "torch" and offload_device(config, "offload_optimizer") != "none":
        # engine.py:2342-2346 asks for it when an optimizer object is handed over instead of the section.
        config["zero_force_ds_cpu_optimizer"] = False


def _adamw_section(run: RunSettings, implementation: Implementation) -> dict[str, Any]:
    """Return the section that DeepSpeed builds the optimizer from (engine.py:2476-2493).

    "torch_adam" selects torch.optim.AdamW and avoids every JIT build; all other params but foreach go to its
    constructor (engine.py:2377-2382). fused=True works on CUDA and, since torch 2.4, on CPU tensors, where it took
    10.6 ms against 171 ms for 20M parameters on 2 cores: as fast as DeepSpeedCPUAdam.
    """
    adam = run.optimizer
    params: dict[str, Any] = {
        "lr": adam.lr,
        "betas": list(adam.betas),
        "eps": adam.eps,
        "weight_decay": adam.weight_decay,
    }
    if implementation == "torch":
        params |= {"torch_adam": True, "fused": True}
    return {"type": "AdamW", "params": params}
