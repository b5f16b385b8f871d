"""Run by the engine tests under torchrun: trains each case of a spec with the real engine and writes what happened.

Many cases share one process, because starting one costs more than training a tiny model.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genesis_ds import ds_config
from genesis_ds.checkpoint.manager import CheckpointManager
from genesis_ds.config import ActivationCheckpointingConfig, ModelConfig
from genesis_ds.data.loader import micro_batches
from genesis_ds.data.tasks.lm import LanguageModelling
from genesis_ds.data.token_set import open_token_set
from genesis_ds.engine import distributed, operations
from genesis_ds.engine.deepspeed import build_engine, gradient_norms
from genesis_ds.engine.distributed import Ranks
from genesis_ds.training.run import prepare_operations

GLOBAL_BATCH, MICRO_BATCH, SEQ_LEN, LR = 8, 4, 32, 1e-3
MODEL = {"n_layers": 3, "dim": 32, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 64, "vocab_size": 260}


def resolve(case: dict[str, Any], ranks: Ranks) -> ds_config.Resolved:
    optimizer = ds_config.OptimizerSettings(LR, (0.9, 0.95), 1e-8, 0.1, case.get("implementation", "auto"))
    run = ds_config.RunSettings("case", MICRO_BATCH, GLOBAL_BATCH, 1.0, optimizer, case.get("precision", "auto"))
    return ds_config.resolve(
        case["ds_config"],
        where=case["name"],
        run=run,
        world_size=ranks.world_size,
        accelerator="cpu",
        cpu_adam_available=True,
    )


def build(case: dict[str, Any], resolved: ds_config.Resolved) -> Any:
    model = ModelConfig(**MODEL | case.get("model", {}))
    checkpointing = ActivationCheckpointingConfig(**case.get("checkpointing", {}))
    return build_engine(model, checkpointing, resolved.config, lambda step: 1.0, seed=0)


def steps(
    engine: Any, task: LanguageModelling, ranks: Ranks, first: int, last: int, watch: Callable[[], None]
) -> list[float]:
    """Train optimizer steps first..last-1; the loss of each, over all ranks."""
    losses = []
    for step in range(first, last):
        total = 0.0
        batches = list(
            micro_batches(task, step * GLOBAL_BATCH, GLOBAL_BATCH, MICRO_BATCH, ranks.rank, ranks.world_size)
        )
        for index, batch in enumerate(batches):
            loss = engine(**batch)
            engine.backward(loss)
            total += loss.item() / len(batches)
            if index == len(batches) - 1:
                watch()
            engine.step()
        losses.append(distributed.sum_over_ranks([total], loss.device)[0] / ranks.world_size)
    return losses


def run_case(case: dict[str, Any], task: LanguageModelling, ranks: Ranks) -> dict[str, Any]:
    resolved = resolve(case, ranks)
    prepare_operations(resolved)
    engine = build(case, resolved)
    layer_norms: list[dict[int, float]] = []
    watch = (lambda: layer_norms.append(gradient_norms(engine))) if case.get("gradient_norms") else lambda: None
    n, half = case["steps"], case["steps"] // 2
    if not case.get("resume"):
        result: dict[str, Any] = {"losses": steps(engine, task, ranks, 0, n, watch)}
    else:
        root = Path(sys.argv[2]).parent / case["name"]
        manager = CheckpointManager(root, {}, keep_last=2, ranks=ranks)
        steps(engine, task, ranks, 0, half, watch)
        manager.save(engine, {"global_step": half}, hooks={})
        result = {"losses": steps(engine, task, ranks, half, n, watch)}
        engine.destroy()
        engine = build(case, resolved)
        manager.load(engine, manager.find(str(root)))
        result["resumed"] = steps(engine, task, ranks, half, n, watch)
    engine.destroy()
    if layer_norms:
        result["first_to_last"] = [norms[0] / norms[max(norms)] for norms in layer_norms]
    return result


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    operations.build("cpu_adam")
    task = LanguageModelling(open_token_set(Path(spec["token_set"])), SEQ_LEN, seed=0)
    results = {case["name"]: run_case(case, task, ranks) for case in spec["cases"]}
    if ranks.is_main:
        Path(sys.argv[2]).write_text(json.dumps(results))
    distributed.leave()


if __name__ == "__main__":
    main()
