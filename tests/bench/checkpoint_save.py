"""What saving costs: DeepSpeed's own save, ours at once, and ours in the background, side by side in one process.

    PYTHONPATH=. python tests/bench/checkpoint_save.py [--layers 19] [--rounds 5] [--directory DIR]

At 19 layers 61M parameters, 0.85 GiB a checkpoint (ZeRO-2 with the optimizer on the CPU, bf16). The stall is what the
loop waits for; a background save is completed before the next begins.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import lm_engine, on_one_cpu

from genesis_ds.checkpoint.save.files import copied
from genesis_ds.checkpoint.save.manager import CheckpointManager, Snapshot
from genesis_ds.checkpoint.save.policy import KeepPolicy
from genesis_ds.config import BatchConfig, CheckpointConfig, ModelShape, RunConfig
from genesis_ds.ds_config import load_ds_config
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.lm import as_batch, cross_entropy


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
    shape = {"dim": 512, "n_heads": 8, "intermediate_size": 1408, "vocab_size": 260}
    batch = BatchConfig(seq_len=8, global_batch_size=1, micro_batch_size=1)
    config = RunConfig(max_steps=1, precision="bf16", model=ModelShape(n_layers=arguments.layers, **shape), batch=batch)
    engine = lm_engine(config, on_one_cpu(config, load_ds_config("ds_configs/zero2_offload.json")), ranks)
    tokens = as_batch(np.zeros((1, 9)))
    engine.backward(cross_entropy(engine.forward(LM, tokens), tokens.labels["targets"]))
    engine.step({LM})

    root = Path(tempfile.mkdtemp(dir=arguments.directory))
    managers = {
        background: CheckpointManager(
            root / str(background), KeepPolicy(CheckpointConfig(keep_last=1)), ranks, identity={}, background=background
        )
        for background in (False, True)
    }
    (root / "copy").mkdir()
    deepspeed = engine._deepspeed  # the one thing here that is not ours: its own way to save
    writes_files = deepspeed.checkpoint_engine
    snapshot = Snapshot({}, {"global_step": 1})

    def by_deepspeed() -> None:
        deepspeed.checkpoint_engine = writes_files  # `Engine.state` has put one that catches in its place
        deepspeed.save_checkpoint(str(root / "deepspeed"), tag="x", save_latest=False)

    ways: dict[str, Callable[[], None]] = {
        "DeepSpeed's save": by_deepspeed,
        "ours, at once": lambda: managers[False].save(engine, snapshot),
        "ours, in the background": lambda: managers[True].save(engine, snapshot),
        "the copy alone": lambda: copied(engine.state(root / "copy")) and None,
    }
    stalls: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, save in ways.items():
            started = time.perf_counter()
            save()
            stalls[name].append(time.perf_counter() - started)
            managers[True].finish()
    print(f"{config.model.n_parameters / 1e6:.0f}M parameters, {arguments.rounds} rounds")
    for name, seconds in stalls.items():
        ratio = median(seconds) / median(stalls["DeepSpeed's save"])
        print(f"{name:<26}{median(seconds):6.2f} s ({min(seconds):.2f} - {max(seconds):.2f})  x {ratio:.2f}")
    shutil.rmtree(root)
    distributed.leave()


if __name__ == "__main__":
    main()
