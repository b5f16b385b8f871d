"""What helps on a small corpus for many epochs: each addition alone, and the best together, beside one base recipe.

    genesis-ds corpus fetch --languages en,es,ko --output corpora/bible
    OMP_NUM_THREADS=1 python tests/bench/small_data.py --out FOLDER [--only RECIPE ...] [--seeds N] [--jobs N]
    python tests/bench/small_data.py --out FOLDER --table

A recipe is one line of RECIPES: the fields in which it differs from BASE. Each is a sweep of `genesis-ds sweep` over
its seeds, whose runs are in FOLDER/runs/RECIPE; a seed has the same weights and the same windows in all of them. The
text is that of a few short books in the Bibles of corpora/bible. The same command goes on where it was stopped, and
trains nothing twice; a recipe that has been changed since needs another name.

A run is judged at its end, and where its own val_chapter was best: early stopping, the strongest of the simple
recipes. Both are bits per byte of val_book, as metrics.jsonl has them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from shutil import copyfile
from statistics import mean, median
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from genesis_ds import metrics
from genesis_ds.analysis.memorisation import mean_interval, membership_auc
from genesis_ds.checkpoint.command import export_model
from genesis_ds.corpus.references import USFM_CODES
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.storage import is_corpus, load_corpus, save_corpus
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.data.token_set import compile_token_set
from genesis_ds.hooks.base import Hook, StepRecord
from genesis_ds.hooks.context import HookContext
from genesis_ds.hooks.evaluate.memorisation import choose_verses, losses_and_known
from genesis_ds.inference.loaded import LoadedModel, load
from genesis_ds.inference.scoring import Ensemble, own_split, score_parts
from genesis_ds.report.run_record import RunRecord, read_run
from genesis_ds.tasks.base import Batch, MakeBatch
from genesis_ds.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
BOOKS = ("MIC", "HAG", "RUT", "JON")
"""Of corpora/bible. Ruth and Jonah are val_book, Micah 1 and 7 val_chapter; trained on are 107 verses a language."""
SEEDS = 3
EVERY, WINDOWS = 80, 48
"""Steps between evaluations, and windows of each split and language."""
BASE = f"""
max_steps: 1200
log_every: 40
tasks: {{lm: 1.0}}
model: {{n_layers: 6, dim: 96, n_heads: 3, intermediate_size: 256}}
batch: {{seq_len: 128, global_batch_size: 8, micro_batch_size: 8}}
optimizer: {{lr: 3.0e-3, weight_decay: 0.1}}
schedule: {{kind: cosine, warmup_steps: 50}}
grokking: {{rule: none, split: val_book}}
evaluation: {{every: {EVERY}, max_windows: {WINDOWS}, strata: false}}
samples: {{new_tokens: 0}}
alignment: {{every: 0}}
clustering: {{every: 0}}
trajectory: {{every: 0}}
checkpoint: {{every: 0}}
extensions: {{hooks: {{cpu: "small_data:CpuSeconds"}}}}
"""
"""0.7M weights and 1.2M tokens, some 24 epochs: val_book is best after a third of them."""


@dataclass(frozen=True)
class Recipe:
    """What a run differs in from the base."""

    flags: dict[str, Any] = field(default_factory=dict)
    averaged: bool = False
    """Whether its average of the weights is judged."""
    keeps_all: bool = False
    """Whether every evaluated checkpoint stays, for ensembles."""
    teacher: str = ""
    """The recipe whose runs, all seeds of it stopped at their best, it learns from."""


RECIPES = {
    "base": Recipe(keeps_all=True),
    "ema": Recipe({"optimizer.weight_average.kind": "ema", "optimizer.weight_average.decay": 0.99}, averaged=True),
    "swa": Recipe({"optimizer.weight_average.kind": "swa", "optimizer.weight_average.start": 300}, averaged=True),
    "decay_1": Recipe({"optimizer.weight_decay": 1.0}),
    "decay_3": Recipe({"optimizer.weight_decay": 3.0}),
    "decay_rising": Recipe({"optimizer.weight_decay": 0.1, "schedule.weight_decay_end_ratio": 20.0}),
    "chapters_shuffled": Recipe({"data.chapter_order": "shuffled"}),
    "masking": Recipe({"masking.kind": "random", "masking.share": 0.15}),
    "masked_loss": Recipe({"masking.kind": "random", "masking.share": 0.15, "masking.loss_weight": 1.0}),
    "multi_token": Recipe({"tasks.lm": 0.75, "tasks.multi_token": 0.25}),
    "stochastic_depth": Recipe({"regularisation.stochastic_depth": 0.2}),
    "dropout": Recipe({"regularisation.dropout": 0.1}),
    "distill": Recipe({"distill.weight": 0.5}, teacher="base"),
}
"""By name, in the order in which they are trained."""


def together(*names: str) -> Recipe:
    """Return the recipe of several, whose checkpoints are kept for ensembles."""
    parts = [RECIPES[name] for name in names]
    flags = {key: value for part in parts for key, value in part.flags.items()}
    return Recipe(flags, averaged=any(part.averaged for part in parts), keeps_all=True)


RECIPES |= {f"{decay}_ema": together(decay, "ema") for decay in ("decay_1", "decay_3")}
RECIPES["together"] = together("decay_1", "masking", "ema")
ENSEMBLES = ("base", "together")
"""Recipes whose seeds are judged together, and the last checkpoints of each."""
SNAPSHOTS = 5
"""Evaluated checkpoints of a run, up to the end or to the best."""


class CpuSeconds(Hook):
    """Records the CPU seconds of a step, by the median since the last record: evaluations are rare."""

    NAME = "bench/cpu_seconds"

    def __init__(self) -> None:
        self.since, self.found = time.process_time(), list[float]()

    @classmethod
    def build(cls, context: HookContext) -> "CpuSeconds":
        """Return the hook of a run."""
        return cls()

    def on_step(self, record: StepRecord) -> None:
        now = time.process_time()
        self.found.append(now - self.since)
        self.since = now
        if metrics.TRAIN_LOSS in record.metrics:
            record.metrics[self.NAME] = median(self.found)
            self.found.clear()


@dataclass(frozen=True)
class Measured:
    """What came of a run or an ensemble. Of languages: bits per byte of val_book."""

    end: dict[str, float]
    best: dict[str, float]
    """Where its own val_chapter was best."""
    step: int | None
    """When that was."""
    extracted: float
    """At the end; the mean over the languages, as that of membership is."""
    membership: float
    cpu_seconds: float | None = None
    """Of a step."""


def main() -> None:
    """Train what FOLDER has not yet, and print the tables."""
    parser = argparse.ArgumentParser(description="Measure what helps on a small corpus.")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--seeds", type=int, choices=range(1, SEEDS + 1), default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="how many recipes are trained at a time")
    parser.add_argument("--table", action="store_true", help="train nothing; print the tables")
    options = parser.parse_args()
    bench = Bench(options.out.absolute())
    if not options.table:
        bench.prepare()
        with ThreadPoolExecutor(options.jobs) as pool:
            for seeds in range(1, options.seeds + 1):  # a table of few seeds has all recipes
                list(pool.map(lambda name, n=seeds: bench.train(name, n), options.only))
        bench.judge_ensembles()
    print(*tables(bench), sep="\n")


@dataclass(frozen=True)
class Bench:
    """The folder of the runs."""

    folder: Path

    def prepare(self) -> None:
        """Write the corpus, the base's YAML and its ds_config, which stay where they are when this tree moves."""
        (self.folder / "sweeps").mkdir(parents=True, exist_ok=True)
        copyfile(ROOT / "ds_configs/zero2.json", self.folder / "zero2.json")
        if not is_corpus(self.folder / "corpus"):
            save_corpus(few_books(load_corpus(ROOT / "corpora/bible")), self.folder / "corpus")
        data = {"corpus": str(self.folder / "corpus"), "token_sets": str(self.folder / "token_sets")}
        (self.folder / "base.yaml").write_text(BASE.lstrip() + yaml.safe_dump({"data": data}))

    def train(self, name: str, n_seeds: int) -> None:
        """Have `genesis-ds sweep` train the first seeds of a recipe that are not yet trained."""
        recipe = RECIPES[name]
        if len(self.runs(name)) >= n_seeds:
            return
        flags = dict(recipe.flags)
        if recipe.keeps_all:
            flags |= {"checkpoint.every": EVERY, "checkpoint.milestones": EVERY}
        if recipe.teacher:
            if len(self.runs(recipe.teacher)) < SEEDS:
                return
            flags["distill.teacher"] = [str(path) for path in self.stopped_early(recipe.teacher)]
        sweep = {
            "name": name,
            "output_dir": str(self.folder / "runs"),
            "run": str(self.folder / "base.yaml"),
            "ds_config": str(self.folder / "zero2.json"),
            "set": flags,
            "fields": {"seed": list(range(SEEDS))},
            "trials": n_seeds,
        }
        path = self.folder / f"sweeps/{name}.yaml"
        path.write_text(yaml.safe_dump(sweep, sort_keys=False))
        places = [str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "genesis_ds", "sweep", str(path)]
        with open(path.with_suffix(".txt"), "a") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
        print(f"{name}: {len(self.runs(name))} of {n_seeds} seeds, exit code {code}", flush=True)

    def runs(self, name: str) -> list[RunRecord]:
        """Return the finished runs of a recipe: of the first seed, the second and so on."""
        paths = [self.folder / "runs" / name / f"trial-{seed:03}" for seed in range(SEEDS)]
        records = map(read_run, takewhile(lambda path: (path / "metrics.jsonl").is_file(), paths))
        return list(takewhile(lambda record: record.last_step == record.n_steps, records))

    def measured(self, name: str) -> list[Measured]:
        """Return what came of a recipe's runs, by seed."""
        return [of_run(record, RECIPES[name].averaged) for record in self.runs(name)]

    def stopped_early(self, name: str) -> list[Path]:
        """Return the checkpoints of a recipe's runs where their own val_chapter was best."""
        found = zip(self.runs(name), self.measured(name), strict=True)
        return [self.weights(name, record, measured.step or 0) for record, measured in found]

    def weights(self, name: str, run: RunRecord, step: int) -> Path:
        """Return what a recipe is judged by of a run's step: the checkpoint, or an export of the average in it."""
        path = run.path / f"checkpoints/step-{step:08}"
        exported = self.folder / f"exported/{name}-{run.path.name}-{step}"
        if RECIPES[name].averaged and not exported.exists():
            export_model(str(path), str(exported), "safetensors", "fp32", average=True)
        return exported if RECIPES[name].averaged else path

    def judge_ensembles(self) -> None:
        """Judge the ensembles of recipes whose seeds are all trained, and keep what came of it."""
        for name in ENSEMBLES:
            runs, path = self.runs(name), self.folder / f"{name}_ensembles.json"
            if len(runs) < SEEDS or path.exists():
                continue
            ends = [self.weights(name, run, run.n_steps) for run in runs]
            judged = {f"{name}: {SEEDS} seeds": [self.judge(ends, self.stopped_early(name))], f"{name}: snapshots": []}
            for run, measured in zip(runs, self.measured(name), strict=True):
                last = [
                    [self.weights(name, run, step - EVERY * n) for n in range(SNAPSHOTS) if step > EVERY * n]
                    for step in (run.n_steps, measured.step or 0)
                ]
                judged[f"{name}: snapshots"].append(self.judge(*last))
            path.write_text(json.dumps({name: [vars(each) for each in of] for name, of in judged.items()}, indent=1))

    def judge(self, end: Sequence[Path], best: Sequence[Path]) -> Measured:
        """Judge the mean probabilities of models at the end, and at their best."""
        models = [load(path) for path in end]
        extracted, membership = self.by_heart(models)
        at_best = self.bits_per_byte([load(path) for path in best])
        return Measured(self.bits_per_byte(models), at_best, None, extracted, membership)

    def bits_per_byte(self, models: Sequence[LoadedModel]) -> dict[str, float]:
        """Return those of the mean probabilities, of each language in val_book."""
        text, parts, n_windows = own_split(models, str(self.folder / "corpus"), [], "val_book", WINDOWS)
        report = score_parts(Ensemble(models, has_mean=True), text, "verses", parts, n_windows)
        return {part.name: part.models[-1].bits_per_byte for part in report.parts}

    def by_heart(self, models: Sequence[LoadedModel]) -> tuple[float, float]:
        """Return which share of training verses is extracted, and the area of membership, as training measures them."""
        corpus, run = load_corpus(self.folder / "corpus"), yaml.safe_load(BASE)["batch"]
        tokens = compile_token_set(
            corpus, [], load_tokenizer("bytes"), split_verses(corpus), self.folder / "token_sets"
        )
        extracted, membership = list[float](), list[float]()
        for parts in choose_verses(tokens, "val_book", 64, run["seq_len"]).values():
            (losses, known), (others, _) = (losses_and_known(MeanModel(models), part, 16) for part in parts)
            extracted.append(float(known.mean()))
            membership.append(membership_auc(losses, others))
        return mean(extracted), mean(membership)


@dataclass(frozen=True)
class MeanModel:
    """The mean probabilities of models, as evaluations call a model."""

    models: Sequence[LoadedModel]

    def sums(
        self, task: str, batches: Sequence[MakeBatch], measure: Callable[[Tensor, Batch], Sequence[float]]
    ) -> list[float]:
        """Return the sums over all batches of what `measure` says of the logits of each."""
        totals = []
        with torch.inference_mode():
            for batch in (make() for make in batches):
                probabilities = [each.model(batch.inputs["tokens"]).softmax(-1) for each in self.models]
                totals.append(measure(torch.stack(probabilities).mean(0).log(), batch))
        return [float(total) for total in np.sum(totals, axis=0)]


def few_books(corpus: Corpus) -> Corpus:
    """Return the BOOKS of a corpus."""

    def of(one: Translation) -> Translation:
        rows = [row for row, book in enumerate(one.verse_ids // 1_000_000) if USFM_CODES[book - 1] in BOOKS]
        texts, flags = [one.texts[row] for row in rows], one.flags[rows]
        return Translation(one.name, one.language, verse_ids=one.verse_ids[rows], texts=texts, flags=flags)

    return Corpus(tuple(map(of, corpus.translations)), sources=corpus.sources)


def of_run(run: RunRecord, averaged: bool) -> Measured:
    """Return what came of a run."""
    suffix = metrics.AVERAGED if averaged else ""

    def series(split: str) -> dict[str, Any]:
        found = {name: metrics.BITS_PER_BYTE_OF.fullmatch(name) for name in run.measures}
        wanted = {at["language"]: name for name, at in found.items() if at and at["split"] == split}
        return {language: run.measures[name + suffix] for language, name in sorted(wanted.items())}

    book, chapter = series("val_book"), series("val_chapter")
    at = int(np.argmin(np.mean([each.values for each in chapter.values()], axis=0)))

    def by_heart(measure: str) -> float:
        last_values = (run.measures[metrics.memorised(language, measure) + suffix].values[-1] for language in book)
        return mean(map(float, last_values))

    return Measured(
        end={language: float(each.values[-1]) for language, each in book.items()},
        best={language: float(each.values[at]) for language, each in book.items()},
        step=int(next(iter(book.values())).steps[at]),
        extracted=by_heart(metrics.EXTRACTED),
        membership=by_heart(metrics.MEMBERSHIP),
        cpu_seconds=float(np.median(run.measures[CpuSeconds.NAME].values)),
    )


def tables(bench: Bench) -> Iterator[str]:
    """Yield rows of Markdown: what recipes reach, and how far each language is from the base, with intervals."""
    found = {name: bench.measured(name) for name in RECIPES}
    for path in sorted(bench.folder.glob("*_ensembles.json")):
        found |= {name: [Measured(**each) for each in of] for name, of in json.loads(path.read_text()).items()}
    found = {name: of for name, of in found.items() if of}
    if not (base := found.get("base")):
        return
    ends, bests = ({name: [getattr(each, at) for each in of] for name, of in found.items()} for at in ("end", "best"))
    heads = ("recipe", "n", "at the end", "from base", "best, at step", "from base's best", "extracted", "membership")
    yield f"| {' | '.join(heads)} | CPU-s a step |"
    yield f"|{9 * '---|'}"
    for name, of in found.items():
        steps = sorted(each.step for each in of if each.step)
        cells = [
            f"{mean(map(overall, ends[name])):.3f}",
            difference(ends, name, overall),
            f"{mean(map(overall, bests[name])):.3f}" + (f", {steps[len(steps) // 2]}" if steps else ""),
            difference(bests, name, overall),
            f"{mean(each.extracted for each in of):.2f}",
            f"{mean(each.membership for each in of):.2f}",
            f"{mean(each.cpu_seconds or 0 for each in of):.3f}" if of[0].cpu_seconds else "",
        ]
        yield f"| {name} | {len(of)} | {' | '.join(cells)} |"
    yield ""
    yield f"| from base |{''.join(f' {language}, end | {language}, best |' for language in base[0].end)}"
    yield f"|{(1 + 2 * len(base[0].end)) * '---|'}"
    for name in list(found)[1:]:
        cells = [difference(of, name, itemgetter(at)) for at in base[0].end for of in (ends, bests)]
        yield f"| {name} | {' | '.join(cells)} |"


def overall(of_languages: dict[str, float]) -> float:
    """The mean over the languages."""
    return mean(of_languages.values())


def difference(found: dict[str, list[dict[str, float]]], name: str, value: Callable[[dict[str, float]], float]) -> str:
    """The mean difference of paired seeds from the base, with Student's 95 % interval where there are two or more."""
    ours, base = ([value(each) for each in found[of]] for of in (name, "base"))
    if name not in RECIPES and len(ours) == 1:  # the ensemble of all seeds
        base = [mean(base)]
    paired = np.array([one - other for one, other in zip(ours, base, strict=False)])
    interval = " ({:+.3f} to {:+.3f})".format(*mean_interval(paired)) if len(paired) > 1 else ""
    return f"{paired.mean():+.3f}{interval}" if name != "base" else ""


if __name__ == "__main__":
    main()
