"""What bf16 costs DeepNorm at 144 layers: losses, and errors of the gradient, of four ways to keep the residual.

    genesis-ds corpus fetch --languages en --output corpora/en
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/deepnorm_precision.py --corpus corpora/en --out FILE.json

Each of

    bf16 sum      alpha x + f(x) and its LayerNorm in bf16, as they were
    fp32 sum      both in fp32, the residual stream in bf16: the default
    fp32 stream   model.fp32_residual
    all fp32      precision fp32

trains with the real engine (ZeRO-2, fp32 master weights) on the same windows from the same weights, with two seeds.
Gradient errors are |g - g32| / |g32| over all weights: g32 is the gradient of the same bf16 weights on the same
held-out windows with everything in fp32. Matrix products of bf16 are computed in fp32 and rounded to bf16, as tensor
cores do; torch's bf16 kernel gives the same and takes five times as long on a CPU without bf16 instructions. FILE.json
is written after each run, and what is in it is not run again.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.bare_run import lm_engine, on_one_cpu

from genesis_ds.config import BatchConfig, ModelConfig, RunConfig, ScheduleConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.token_set import TokenSet, compile_token_set
from genesis_ds.engine import distributed
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.linear import Linear
from genesis_ds.model.multitask import LM
from genesis_ds.model.norm import DeepNorm
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import LanguageModelling, cross_entropy, evaluation_windows
from genesis_ds.tokenizer import load_tokenizer

MODEL = {"n_layers": 144, "dim": 64, "n_heads": 2, "intermediate_size": 192, "vocab_size": 260}
SEQ_LEN, MICRO_BATCH, STEPS, WARM_UP = 128, 2, 150, 20
HELD_OUT, OF_GRADIENT = 64, 4
"""Windows."""
LOOKED_AT = (0, 40, STEPS)
VARIANTS = {
    "bf16 sum": ("bf16", {}),
    "fp32 sum": ("bf16", {}),
    "fp32 stream": ("bf16", {"fp32_residual": True}),
    "all fp32": ("fp32", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what bf16 costs DeepNorm.")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    ranks = Ranks.from_environment()
    distributed.set_environment(ranks)
    distributed.initialise(ranks)
    corpus = load_corpus(options.corpus)
    with TemporaryDirectory() as folder:
        tokenizer = load_tokenizer("bytes")
        token_set = compile_token_set(corpus, ["en"], tokenizer, split_verses(corpus), Path(folder))
        found = json.loads(options.out.read_text()) if options.out.exists() else {}
        for seed in range(options.seeds):
            for variant in VARIANTS:
                if (name := f"{variant}, seed {seed}") not in found:
                    found[name] = train(variant, seed, token_set, ranks)
                    options.out.write_text(json.dumps(found, indent=1) + "\n")
                print(row(name, found[name]), flush=True)
    distributed.leave()


def row(name: str, result: dict[str, Any]) -> str:
    """Of the table: losses, and gradient errors before training, after 40 steps and at the end."""
    errors = [f"{error:.1%}" for error in result["gradient errors"].values()] or ["-"] * len(LOOKED_AT)
    losses = [f"{result[key]:.4f}" for key in ("training loss", "held-out loss")]
    return f"| {' | '.join([name, *losses, *errors])} |"


def train(variant: str, seed: int, token_set: TokenSet, ranks: Ranks) -> dict[str, Any]:
    precision, fields = VARIANTS[variant]
    model = ModelConfig(**MODEL, **fields)
    config = RunConfig(
        max_steps=STEPS,
        seed=seed,
        model=model,
        tasks={"lm": 1.0},
        batch=BatchConfig(seq_len=SEQ_LEN, global_batch_size=MICRO_BATCH, micro_batch_size=MICRO_BATCH),
        schedule=ScheduleConfig(kind="constant", warmup_steps=WARM_UP),
        precision=precision,
    )
    windows = LanguageModelling(token_set, SEQ_LEN, seed)
    windows_of_text = evaluation_windows(token_set.stream("val_chapter", "en"), SEQ_LEN, HELD_OUT)
    held_out = {**windows_of_text.inputs, **windows_of_text.labels}
    began, losses, errors = time.perf_counter(), [], {}
    as_it_was = mock.patch.object(DeepNorm, "forward", deepnorm_in_bf16) if variant == "bf16 sum" else nullcontext()
    with mock.patch.object(Linear, "forward", linear_of_tensor_cores), as_it_was:
        engine = lm_engine(config, on_one_cpu(config, {"zero_optimization": {"stage": 2}}), ranks)
        for step in range(STEPS + 1):
            if step in LOOKED_AT and precision == "bf16":
                few = {key: value[:OF_GRADIENT] for key, value in held_out.items()}
                errors[step] = gradient_error(model, engine.model.base.state_dict(), few)
            if step == STEPS:
                break
            batch = windows.batch(range(step * MICRO_BATCH, (step + 1) * MICRO_BATCH))
            loss, _ = windows.loss(engine.forward(LM, batch), batch)
            engine.backward(loss)
            engine.step({LM})
            losses.append(loss.item())
        with engine.evaluating():
            batches = zip(*(value.split(MICRO_BATCH) for value in held_out.values()), strict=True)
            validation = mean(cross_entropy(engine.output(LM, tokens), targets).item() for tokens, targets in batches)
        engine.destroy()
    return {
        "training loss": mean(losses[-10:]),
        "held-out loss": validation,
        "gradient errors": errors,
        "seconds": round(time.perf_counter() - began),
        "losses": losses,
    }


def gradient_error(config: ModelConfig, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> float:
    """|g - g32| / |g32| of bf16 weights."""
    g, g32 = (gradient(config, weights, batch, dtype) for dtype in (torch.bfloat16, torch.float32))
    return float((g - g32).norm() / g32.norm())


def gradient(config: ModelConfig, weights: dict[str, Tensor], batch: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    model = Transformer(config).to(dtype)
    model.load_state_dict(weights)
    cross_entropy(model(batch["tokens"]), batch["targets"]).backward()
    return torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])


def deepnorm_in_bf16(self: DeepNorm, x: Tensor, branch: Tensor) -> Tensor:
    return self.norm(self.alpha * x + branch)


def linear_of_tensor_cores(self: Linear, x: Tensor) -> Tensor:
    return F.linear(x.float(), self.weight.float()).to(x.dtype)


if __name__ == "__main__":
    main()
