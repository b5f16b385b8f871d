"""What bf16 master weights cost: held-out losses by how they are rounded, and whether modular addition is grokked.

    genesis-ds corpus fetch --languages en --output corpora/en
    OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/rounding.py --corpus corpora/en --out FILE.json [--only STUDY ...]
    PYTHONPATH=. python tests/bench/rounding.py --out FILE.json --table

Each run trains with the real engine (ZeRO-2, the optimizer on the host) in bf16, from the same weights on the same
windows for all ways of a seed:

    fp32         fp32 masters and moments, as zero2_offload.json has them
    nearest      bf16 masters and moments, rounded to the nearest by DeepSpeed
    stochastic   bf16 masters and moments, rounded stochastically: zero2_offload_bf16.json
    kahan        the same with a compensation

Matrix products of bf16 are computed in fp32 and rounded to bf16, as tensor cores do; torch's bf16 kernel gives the same
and takes five times as long on a CPU without bf16 instructions. FILE.json is written after each run, and what is in it
is not run again: the studies, the smallest first, may be stopped at any time and go on.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from scipy.stats import t as student
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deepnorm_precision import linear_of_tensor_cores
from helpers.bare_run import lm_engine, on_one_cpu

from genesis_ds.config import ArithmeticConfig, BatchConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import load_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.data.token_set import TokenSet, compile_token_set
from genesis_ds.engine import distributed
from genesis_ds.engine.engine import Engine
from genesis_ds.engine.ranks import Ranks
from genesis_ds.model.linear import Linear
from genesis_ds.model.multitask import LM
from genesis_ds.tasks.arithmetic import ModularArithmetic
from genesis_ds.tasks.lm import LanguageModelling, cross_entropy, evaluation_windows
from genesis_ds.tokenizer import load_tokenizer

WAYS = ("fp32", "nearest", "stochastic", "kahan")
SEEDS = 3
HELD_OUT = 64
"""Windows of val_chapter."""
BF16 = {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}


@dataclass(frozen=True)
class Study:
    """Runs of one model that differ in rate, rounding, accumulation and seed."""

    model: dict[str, Any]
    seq_len: int
    windows: int
    """Of a step."""
    steps: int
    rates: tuple[float, ...]
    ways: tuple[str, ...] = WAYS
    accumulations: tuple[int, ...] = (1,)
    modulus: int = 0
    """Of modular addition; 0: text."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=lambda: {"warmup_steps": 20})


SMALL = {"n_layers": 4, "dim": 128, "n_heads": 4, "intermediate_size": 352, "vocab_size": 260}
ADDITION = {"n_layers": 1, "dim": 128, "n_heads": 4, "intermediate_size": 512, "max_seq_len": 3, "tie_embeddings": True}
STUDIES = {
    "small": Study(SMALL, 32, 16, 200, rates=(4e-4, 1e-4)),
    "addition": Study(
        ADDITION,
        seq_len=3,
        windows=512,
        steps=800,
        rates=(3e-3, 1e-3),
        modulus=97,
        optimizer={"betas": [0.9, 0.98], "weight_decay": 1.0},
        schedule={"kind": "constant", "warmup_steps": 10},
    ),
    "accumulation": Study(SMALL, 32, 16, 200, rates=(4e-4,), ways=("fp32", "stochastic"), accumulations=(16,)),
    "deep": Study(
        {"n_layers": 144, "dim": 64, "n_heads": 2, "intermediate_size": 192, "vocab_size": 260},
        seq_len=128,
        windows=2,
        steps=150,
        rates=(1e-3,),
        ways=("fp32", "nearest", "stochastic"),
        schedule={"kind": "constant", "warmup_steps": 20},
    ),
    "quickstart": Study({"preset": "quickstart", "vocab_size": 260}, 256, 16, 200, rates=(3e-3, 3e-4)),
}
"""By name, the smallest first. What "accumulation" does in 16 micro-steps, "small" does in one."""


@dataclass(frozen=True)
class Run:
    """One training run."""

    study: str
    rate: float
    accumulation: int
    way: str
    seed: int

    def __str__(self) -> str:
        return f"{self.study}, lr {self.rate:g}, {self.accumulation} micro-steps, {self.way}, seed {self.seed}"

    def config(self) -> RunConfig:
        """The run's configuration."""
        study = STUDIES[self.study]
        rows = study.windows // self.accumulation
        bf16 = "auto" if self.way == "fp32" else self.way
        return RunConfig(
            max_steps=study.steps,
            seed=self.seed,
            model=ModelConfig(**study.model),
            tasks={"lm": 1.0},
            arithmetic=ArithmeticConfig(modulus=study.modulus or None),
            batch=BatchConfig(seq_len=study.seq_len, global_batch_size=study.windows, micro_batch_size=rows),
            optimizer=OptimizerConfig(lr=self.rate, implementation="cpu_adam", master_rounding=bf16, **study.optimizer),
            schedule=ScheduleConfig(**study.schedule),
            precision="bf16",
        )

    def ds_config(self) -> dict[str, Any]:
        """ZeRO-2 with the optimizer on the host."""
        zero = {"stage": 2, "reduce_bucket_size": 10**6, "offload_optimizer": {"device": "cpu"}}
        return {"zero_optimization": zero, "bf16": {"enabled": True} if self.way == "fp32" else BF16}


def runs(studies: list[str]) -> Iterator[Run]:
    """Yield the runs of the studies: all ways of a seed one after the other."""
    for name in studies:
        study = STUDIES[name]
        for seed in range(SEEDS):
            for rate in study.rates:
                for accumulation in study.accumulations:
                    for way in study.ways:
                        yield Run(name, rate, accumulation, way, seed)


def main() -> None:
    """Train what FILE.json has not yet, and print the table."""
    parser = argparse.ArgumentParser(description="Measure what bf16 master weights cost.")
    parser.add_argument("--corpus", help="a corpus with King James's English")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), metavar="STUDY")
    parser.add_argument("--table", action="store_true", help="train nothing; print the table")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    if not options.table:
        ranks = Ranks.from_environment()
        distributed.set_environment(ranks)
        distributed.initialise(ranks)
        with TemporaryDirectory() as folder:
            corpus = load_corpus(options.corpus)
            token_set = compile_token_set(corpus, ["en"], load_tokenizer("bytes"), split_verses(corpus), Path(folder))
            for run in runs(options.only):
                if str(run) not in found:
                    found[str(run)] = train(run, token_set, ranks)
                    options.out.write_text(json.dumps(found, indent=1) + "\n")
                    print(f"{run}: {found[str(run)]['result']:g}, {found[str(run)]['seconds']} s", flush=True)
        distributed.leave()
    print(*table(found), sep="\n")


def train(run: Run, token_set: TokenSet, ranks: Ranks) -> dict[str, Any]:
    """Train a run. Gives the held-out loss after it, or the step at which addition is known, and seconds."""
    study, config, began = STUDIES[run.study], run.config(), time.perf_counter()
    task, judge = addition(run) if study.modulus else text(run, token_set)
    rows, result = config.batch.micro_batch_size, float("inf")
    losses = []
    with mock.patch.object(Linear, "forward", linear_of_tensor_cores):
        engine = lm_engine(config, on_one_cpu(config, run.ds_config()), ranks)
        for step in range(study.steps):
            total = 0.0
            for first in range(step * study.windows, (step + 1) * study.windows, rows):
                batch = task.batch(range(first, first + rows))
                loss, _ = task.loss(engine.forward(LM, batch), batch)
                engine.backward(loss)
                total += loss.item() / run.accumulation
            engine.step({LM})
            losses.append(total)
            if study.modulus and step % 10 == 9 and judge(engine) >= 0.95:
                result = step + 1
                break
        if not study.modulus:
            result = judge(engine)
        engine.destroy()
    return {"result": result, "seconds": round(time.perf_counter() - began), "losses": losses}


Judge = Callable[[Engine], float]


def text(run: Run, token_set: TokenSet) -> tuple[LanguageModelling, Judge]:
    """Language modelling, and the mean loss of the held-out windows in nats a byte."""
    study = STUDIES[run.study]
    windows = evaluation_windows(token_set.stream("val_chapter", "en"), study.seq_len, HELD_OUT)
    held_out = {**windows.inputs, **windows.labels}

    def loss(engine: Engine) -> float:
        with engine.evaluating():
            batches = zip(*(value.split(8) for value in held_out.values()), strict=True)
            return mean(cross_entropy(engine.output(LM, tokens), targets).item() for tokens, targets in batches)

    return LanguageModelling(token_set, study.seq_len, run.seed), loss


def addition(run: Run) -> tuple[ModularArithmetic, Judge]:
    """Modular addition, and the share of 1,024 validation equations that is answered right."""
    table = arithmetic_table(STUDIES[run.study].modulus, "add", 0.3, seed=0)

    def right(engine: Engine) -> float:
        tokens, answers = (
            torch.from_numpy(part[:1024]) for part in (table.validation.tokens, table.validation.answers)
        )
        with engine.evaluating():
            logits: Tensor = engine.output(LM, tokens)
        return float((logits[:, -1].argmax(-1) == answers).float().mean())

    return ModularArithmetic(table.train, run.seed), right


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield rows of Markdown: results by seed, and the mean difference from fp32 of the same seed with its interval."""
    results: dict[tuple[str, float, int], dict[str, dict[int, float]]] = defaultdict(partial(defaultdict, dict))
    for run in runs(list(STUDIES)):
        if str(run) in found:
            results[run.study, run.rate, run.accumulation][run.way][run.seed] = found[str(run)]["result"]
    yield f"| study | rate | micro-steps | rounding |{''.join(f' seed {seed} |' for seed in range(SEEDS))} from fp32 |"
    yield f"|{(5 + SEEDS) * '---|'}"
    for (study, rate, accumulation), ways in results.items():
        digits = ".0f" if STUDIES[study].modulus else ".4f"
        for way, by_seed in ways.items():
            shown = {seed: format(found, digits) if isfinite(found) else "never" for seed, found in by_seed.items()}
            cells = [shown.get(seed, "") for seed in range(SEEDS)]
            difference = "" if way == "fp32" else interval(by_seed, ways.get("fp32", {}), digits)
            yield f"| {' | '.join([study, f'{rate:g}', str(accumulation), way, *cells, difference])} |"


def interval(one: dict[int, float], other: dict[int, float], digits: str) -> str:
    """The mean difference of paired seeds, and Student's 95 % interval of it where there are two or more."""
    differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
    if len(differences) < 2 or not all(map(isfinite, differences)):
        return ""
    middle, n = mean(differences), len(differences)
    half = float(student.ppf(0.975, n - 1)) * stdev(differences) / n**0.5
    return f"{middle:+{digits}} ({middle - half:+{digits}} to {middle + half:+{digits}})"


if __name__ == "__main__":
    main()
