"""The DeepSpeed engine: how a model is built under a resolved ds_config, and what is asked of the engine afterwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.model.norm import RMSNorm
from genesis_ds.model.transformer import Transformer


def build_engine(
    model_config: ModelConfig,
    checkpointing: ActivationCheckpointingConfig,
    ds_config: dict[str, Any],
    learning_rate: Callable[[int], float],
    seed: int,
) -> Any:
    """A DeepSpeedEngine around a freshly initialised decoder.

    ds_config is a resolved one. learning_rate gives the factor on the peak rate at an optimizer step. The seed alone
    determines the weights: every stage, precision and number of ranks starts from the same.
    """
    import deepspeed

    torch.manual_seed(seed)
    with _construction(ds_config):
        model = Transformer(model_config, checkpointing)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=parameter_groups(model),
        config=ds_config,
        lr_scheduler=lambda optimizer: LambdaLR(optimizer, learning_rate),
    )
    return engine


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: the matrices, and the norms' weights and biases, to which weight decay does not apply."""
    matrices: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in model.modules():
        group = norms if isinstance(module, nn.LayerNorm | RMSNorm) else matrices
        group += module.parameters(recurse=False)
    return [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]


def gradient_norm(engine: Any) -> float | None:
    """Norm of the last step's whole gradient before clipping; None under ZeRO-0 in fp32, where DeepSpeed keeps none."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def gradient_norms(engine: Any) -> dict[int, float]:
    """Layer index -> norm of the layer's gradient; to be asked between backward and step, on every rank."""
    from deepspeed.utils import safe_get_full_grad

    norms = {}
    for index, layer in enumerate(engine.module.layers):
        gradients = [safe_get_full_grad(parameter) for parameter in layer.parameters()]
        norms[index] = float(torch.stack([gradient.float().norm() for gradient in gradients]).norm())
    return norms


def apply_optimizer_settings(engine: Any, learning_rate: Callable[[int], float]) -> None:
    """Put this run's optimizer settings in the place of those that a checkpoint brought along."""
    settings = engine.config["optimizer"]["params"]
    factor = learning_rate(engine.lr_scheduler.last_epoch)
    engine.lr_scheduler.base_lrs = [settings["lr"]] * len(engine.optimizer.param_groups)
    for group, weight_decay in zip(engine.optimizer.param_groups, (settings["weight_decay"], 0.0), strict=True):
        group["initial_lr"], group["lr"] = settings["lr"], settings["lr"] * factor
        group["betas"], group["eps"], group["weight_decay"] = settings["betas"], settings["eps"], weight_decay


def replay_cpu_adam_steps(engine: Any) -> None:
    """Bring DeepSpeedCPUAdam's hidden state to where an uninterrupted run has it, after a checkpoint was loaded.

    Its C++ side multiplies beta^step up step by step in fp32, and takes pow(beta, step) where the step jumps, as it
    does after loading; the two differ in the last bits (csrc/includes/cpu_adam.h, IncrementStep). One-element updates
    for all past steps repeat the products: about 0.2 s per 100,000 steps.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer = getattr(engine.optimizer, "optimizer", None)
    if not isinstance(optimizer, DeepSpeedCPUAdam) or not optimizer.state:
        return
    done = int(next(iter(optimizer.state.values()))["step"])
    group = optimizer.param_groups[0]
    update = optimizer.ds_opt_adam.adam_update
    scratch = [torch.zeros(1) for _ in range(4)]
    for step in range(1, done + 1):
        update(optimizer.opt_id, step, 0.0, *group["betas"], group["eps"], 0.0, group["bias_correction"], *scratch)


@contextmanager
def evaluating(engine: Any) -> Iterator[None]:
    """Evaluation mode without gradients. Not inference_mode: DeepSpeed's ZeRO-3 gathers cannot run under it."""
    engine.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        engine.train()


def _construction(ds_config: dict[str, Any]) -> AbstractContextManager:
    """ZeRO-3 partitions each weight as it is made; otherwise the whole is made on the CPU in its training dtype."""
    import deepspeed

    if ds_config.get("zero_optimization", {}).get("stage", 0) == 3:
        return deepspeed.zero.Init(config_dict_or_path=ds_config)
    if ds_config.get("bf16", {}).get("enabled", False):
        return _default_dtype(torch.bfloat16)
    return nullcontext()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)
