"""What saving costs: DeepSpeed's own save, ours at once, and ours in the background, side by side in one process.

    PYTHONPATH=. python tests/bench/checkpoint_save.py [--layers 19] [--rounds 5] [--directory DIR]

At 19 layers 61M parameters, 0.85 GiB a checkpoint (ZeRO-2 with the optimizer on the CPU, bf16). The stall is what the
loop waits for; a background save is completed before the next begins.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from genesis_ds.checkpoint.save.rank_files import collect, copied

from genesis_ds.checkpoint.save.manager import CheckpointManager, Snapshot
from genesis_ds.config import ActivationCheckpointingConfig, BatchConfig, CheckpointConfig, ModelConfig, RunConfig
from genesis_ds.ds_config import RunSettings, load_ds_config, resolve
from genesis_ds.engine import compiled_ops, distributed
from genesis_ds.engine.distributed import Ranks
from genesis_ds.engine.engine import build_engine
from genesis_ds.model.multitask import LM, build_model
from genesis_ds.tasks.lm import cross_entropy


def main() -> None:
    """Print each way's stall as the median of the rounds, and their range."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    ranks = Ranks(0, 0, 1)
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    compiled_ops.build("cpu_adam")
    shape = {"dim": 512, "n_heads": 8, "intermediate_size": 1408, "vocab_size": 256}
    batch = BatchConfig(seq_len=8, global_batch_size=1, micro_batch_size=1)
    run = RunConfig(max_steps=1, precision="bf16", model=ModelConfig(n_layers=arguments.layers, **shape), batch=batch)
    settings = RunSettings.of(run, "bench")
    path = "ds_configs/zero2_offload.json"
    resolved = resolve(
        load_ds_config(path), where=path, run=settings, world_size=1, accelerator="cpu", cpu_adam_available=True
    )
    model = partial(build_model, run.model, ActivationCheckpointingConfig())
    engine = build_engine(model, resolved.config, lambda step: 1.0, 0)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    engine.backward(cross_entropy(engine(LM, tokens=tokens).output, tokens))
    engine.step()

    root = Path(tempfile.mkdtemp(dir=arguments.directory))
    managers = {
        background: CheckpointManager(
            root / str(background), CheckpointConfig(keep_last=1, background=background), ranks, {}
        )
        for background in (False, True)
    }
    (root / "deepspeed").mkdir()
    plain = engine.checkpoint_engine
    snapshot = Snapshot(run, {"global_step": 1})

    def by_deepspeed() -> None:
        engine.checkpoint_engine = plain
        engine.save_checkpoint(str(root / "deepspeed"), tag="x", save_latest=False)

    ways: dict[str, Callable[[], None]] = {
        "DeepSpeed's save": by_deepspeed,
        "ours, at once": lambda: managers[False].save(engine, snapshot),
        "ours, in the background": lambda: managers[True].save(engine, snapshot),
        "the copy alone": lambda: copied(collect(engine, root / "copy")) and None,
    }
    stalls: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, save in ways.items():
            started = time.perf_counter()
            save()
            stalls[name].append(time.perf_counter() - started)
            managers[True].finish()
    n = run.model.n_parameters
    print(f"{n / 1e6:.0f}M parameters, {arguments.rounds} rounds")
    for name, seconds in stalls.items():
        ratio = median(seconds) / median(stalls["DeepSpeed's save"])
        print(f"{name:<26}{median(seconds):6.2f} s ({min(seconds):.2f} - {max(seconds):.2f})  x {ratio:.2f}")
    shutil.rmtree(root)
    distributed.leave()


if __name__ == "__main__":
    main()
