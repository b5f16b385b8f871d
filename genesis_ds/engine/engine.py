"""The DeepSpeed engine: how a model is built under a resolved ds_config, and what is asked of the engine afterwards."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from genesis_ds.engine.heap import returning_freed_memory, trim_around_updates
from genesis_ds.model.multitask import LM, MultiTaskModel
from genesis_ds.model.norm import RMSNorm

TRUNK_GROUPS = ("matrices", "norms")
"""The parameter groups that every step uses; the others are the tasks' heads, by the tasks' names."""


def build_engine(
    build_model: Callable[[], MultiTaskModel],
    ds_config: dict[str, Any],
    learning_rate: Callable[[int], float],
    seed: int,
    initial: Mapping[str, Callable[[], torch.Tensor]] = MappingProxyType({}),
) -> Any:
    """A DeepSpeedEngine around a freshly initialised model.

    ds_config is a resolved one. learning_rate gives the factor on the peak rate at an optimizer step. The seed alone
    determines the weights: every stage, precision and number of ranks starts from the same. initial: by name, what
    gives the weights that do not start so, in the same order on all ranks.
    """
    import deepspeed

    torch.manual_seed(seed)
    with returning_freed_memory():
        with _construction(ds_config):
            model = build_model()
        for name, weight in initial.items():
            parameter = model.get_parameter(name)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(weight())
        engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=parameter_groups(model),
            config=ds_config,
            lr_scheduler=lambda optimizer: LambdaLR(optimizer, learning_rate),
        )
    trim_around_updates(torch_optimizer(engine))
    return engine


def parameter_groups(model: MultiTaskModel) -> list[dict[str, Any]]:
    """The trunk's matrices; its norms' weights and biases, which do not decay; and a group for each task's head.

    Each has the names of its parameters, as a checkpoint of ZeRO-0 does not name them otherwise.
    """
    heads: dict[str, nn.Module] = {LM: model.base.output} if model.base.output is not None else {}
    heads |= model.heads.items()
    in_heads = {id(parameter) for head in heads.values() for parameter in head.parameters()}
    matrices: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in model.modules():
        group = norms if isinstance(module, nn.LayerNorm | RMSNorm) else matrices
        group += (parameter for parameter in module.parameters(recurse=False) if id(parameter) not in in_heads)
    groups: list[dict[str, Any]] = [
        {"name": TRUNK_GROUPS[0], "params": matrices},
        {"name": TRUNK_GROUPS[1], "params": norms, "weight_decay": 0.0},
        *({"name": task, "params": list(head.parameters())} for task, head in heads.items()),
    ]
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [group | {"parameters": [names[parameter] for parameter in group["params"]]} for group in groups]


def torch_optimizer(engine: Any) -> Optimizer:
    """The optimizer that DeepSpeed's wraps; ZeRO-0 in fp32 has no wrapper."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def gradient_norm(engine: Any) -> float:
    """Norm of the last step's whole gradient before clipping; inf where it was not finite."""
    return float(engine.get_global_grad_norm())


def each_weight(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's name of every parameter, and the whole of it on the device for as long as it has its turn.

    Every rank goes through all of them. A tied matrix comes once.
    """
    import deepspeed

    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.detach()


def gathered_weights(engine: Any, keep: bool) -> dict[str, torch.Tensor]:
    """The whole weights on the host, by the model's names, in the dtype they train in. Every rank calls it.

    One parameter at a time is gathered on the device; ranks that do not keep them return nothing. A tied matrix comes
    once.
    """
    return {name: weight.to("cpu", copy=True) for name, weight in each_weight(engine) if keep}


def apply_optimizer_settings(engine: Any, learning_rate: Callable[[int], float]) -> None:
    """Put this run's optimizer settings in the place of those that a checkpoint brought along."""
    settings = engine.config["optimizer"]["params"]
    factor = learning_rate(engine.lr_scheduler.last_epoch)
    engine.lr_scheduler.base_lrs = [settings["lr"]] * len(engine.optimizer.param_groups)
    for group in engine.optimizer.param_groups:
        group["initial_lr"], group["lr"] = settings["lr"], settings["lr"] * factor
        group["betas"], group["eps"] = settings["betas"], settings["eps"]
        group["weight_decay"] = 0.0 if group["name"] == "norms" else settings["weight_decay"]


def destroy(engine: Any) -> None:
    """Let go of an engine, the only one of its process, so that another can be built in its memory.

    DeepSpeed 0.19.8 keeps every ZeRO-3 model in a list and in a function's cache, for ever.
    """
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    engine.destroy()
    FWD_MODULE_STACK.clear()
    cached = getattr(PartitionedParameterCoordinator, "_PartitionedParameterCoordinator__params_to_release")  # noqa: B009
    inspect.getclosurevars(cached).nonlocals["func"].cache_clear()


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
