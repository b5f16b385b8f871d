"""How well the grokking detector does: on curves of real training runs, judged by what the accuracies say.

    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/grokking_curves.py --out DIR [--tuning]
    PYTHONPATH=. OMP_NUM_THREADS=1 python tests/bench/grokking_curves.py --out DIR --small
    PYTHONPATH=. python tests/bench/grokking_curves.py --table DIR [--tuning | --small]

The first trains what DIR lacks (about 10 CPU-minutes; 6 for the runs of the tuning) and prints the table, the second
does so with 20 runs of a network of one hidden layer (2 CPU-minutes), the third only judges the CSVs of DIR. Every
other run is a decoder of one layer by `genesis_ds.model.transformer`, AdamW, fp32, on modular arithmetic (loss on the
answer alone, full batch) or on the bytes of the synthetic corpus.

A curve groks if validation accuracy reaches 0.95 at t_g, train accuracy 0.99 at t_m, and t_g - t_m >= 0.5 t_m. It
improves late if its validation accuracy at the end is 0.10 above the best until 1.5 t_m. Other curves are made of the
runs', which grok or improve if what they are made of does:

- `20 % noise` multiplies every loss by exp(0.2 N(0, 1)) and draws every accuracy from 100 examples;
- `log-spaced` keeps 32 points a decade, at most 200 steps apart;
- `diluted` adds a share of 0.2 of an arithmetic curve's losses to 0.8 of an ordinary text's, and has no accuracies;
- `memorised text` adds 0.5 of them to 0.5 of a text of 1 nat of entropy a token that is learnt by heart from step 300
  on; its end is held five times as long. No accuracies;
- `thinned 10, 25` keep every tenth or 25th point, the end held as well;
- `steps x 100` and `numbered` have other steps: a hundredfold, or 0, 1, 2, ...
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.analysis.curves import events_of, read_csv
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Event, Point
from genesis_ds.analysis.window_rule import WindowRule
from genesis_ds.config import ModelConfig, Operation
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.model.transformer import Transformer
from genesis_ds.tasks.lm import IGNORE
from genesis_ds.tokenizer.bytes import ByteTokenizer

EVERY = 10
"""Steps between evaluations."""
WINDOW = 48
"""Bytes of a row of text."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    kind: str
    held_out: bool
    seed: int
    steps: int
    lr: float = 3e-3
    weight_decay: float = 1.0
    cycle: int = 0
    """Steps of a cosine after which the learning rate starts again; 0: constant."""
    operation: Operation | None = None
    modulus: int = 0
    share: float = 1.0
    """Of the pairs, or of the training text."""
    language: str = ""

    @property
    def name(self) -> str:
        what = f"{self.operation}{self.modulus}" if self.operation else self.language
        cycle = f"-c{self.cycle}" if self.cycle else ""
        return f"{what}-share{self.share:g}-wd{self.weight_decay:g}-lr{self.lr:g}{cycle}-s{self.seed}"


Rows = tuple[Tensor, Tensor]
"""Tokens [n, T] and targets [n, T], IGNORE where there is no loss."""


def data(recipe: Recipe) -> tuple[Rows, Rows, int]:
    """Training rows, validation rows, vocabulary size."""
    if recipe.operation is None:
        return text(recipe)
    table = arithmetic_table(recipe.modulus, recipe.operation, recipe.share, recipe.seed)
    rows = []
    for part in (table.train, table.validation):
        tokens = torch.from_numpy(part.tokens)
        targets = torch.full_like(tokens, IGNORE)
        targets[:, -1] = torch.from_numpy(part.answers)
        rows.append((tokens, targets))
    return rows[0], rows[1], recipe.modulus + 1


def text(recipe: Recipe) -> tuple[Rows, Rows, int]:
    """Windows of bytes: a share of the training chapters, and the validation chapters."""
    corpus = synthetic_corpus(recipe.seed)
    split, translation, encode = split_verses(corpus), corpus.translation(recipe.language), ByteTokenizer().encode
    rows = []
    for tier, share in (("train", recipe.share), ("val_chapter", 1.0)):
        chosen = np.flatnonzero(np.isin(translation.verse_ids, split.ids(tier)))
        ids = torch.tensor(encode("\n".join(translation.texts[i] for i in chosen[: int(share * len(chosen))])))
        windows = ids[: (len(ids) - 1) // WINDOW * WINDOW + 1].unfold(0, WINDOW + 1, WINDOW)
        rows.append((windows[:, :-1], windows[:, 1:]))
    return rows[0], rows[1], 260


def train(recipe: Recipe) -> list[Point]:
    """The run's curve. It ends early, when the validation accuracy has been at 0.99 for a while."""
    torch.manual_seed(recipe.seed)
    train_rows, val_rows, vocabulary = data(recipe)
    length = train_rows[0].shape[1]
    model = Transformer(
        ModelConfig(n_layers=1, dim=64, n_heads=2, intermediate_size=128, vocab_size=vocabulary, max_seq_len=length)
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    points: list[Point] = []
    generalised = None
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        batch = train_rows
        if recipe.operation is None:
            chosen = torch.randint(len(train_rows[0]), (16,))
            batch = train_rows[0][chosen], train_rows[1][chosen]
        optimizer.zero_grad(set_to_none=True)
        losses(model, batch)[0].mean().backward()
        optimizer.step()
        if step % EVERY == 0:
            points.append(evaluate(model, train_rows, val_rows, step, learning_rate(recipe, step)))
            if generalised is None and (points[-1].val_accuracy or 0) >= 0.99:
                generalised = step
            if generalised is not None and step >= max(1.25 * generalised, generalised + 200):
                break
    return points


def learning_rate(recipe: Recipe, step: int) -> float:
    """Ten steps of warm-up, then constant, or cosines down to 1 % that start again every cycle (arXiv 1608.03983)."""
    factor = min(1.0, step / 10)
    if recipe.cycle:
        factor *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step % recipe.cycle) / recipe.cycle))
    return recipe.lr * factor


def losses(model: Transformer, rows: Rows) -> tuple[Tensor, Tensor]:
    """Loss in nats and hits, of all targets."""
    asked = rows[1] != IGNORE
    logits, targets = model.logits(model.hidden(rows[0])[asked]), rows[1][asked]
    return F.cross_entropy(logits, targets, reduction="none"), (logits.argmax(-1) == targets).float()


@torch.no_grad()
def evaluate(model: Transformer, train_rows: Rows, val_rows: Rows, step: int, lr: float) -> Point:
    """All pairs; of text at most 64 windows each."""
    n = len(train_rows[0]) if model.config.vocab_size != 260 else 64
    found = [losses(model, (rows[0][:n], rows[1][:n])) for rows in (train_rows, val_rows)]
    (train_loss, train_hits), (val_loss, val_hits) = ((loss.mean().item(), hits.mean().item()) for loss, hits in found)
    return Point(step, train_loss, val_loss, train_hits, val_hits, lr)


def recipes() -> list[Recipe]:
    """Tuning: addition and two languages. Held out: other seeds, primes, operations and language."""
    add = Recipe("grokking", False, 0, 2500, operation="add", modulus=31, share=0.4)
    text_a = Recipe("ordinary", False, 0, 1200, weight_decay=0.1, language="qaa")
    text_b = replace(text_a, language="qab")
    tuning = [
        add,
        replace(add, seed=1, share=0.5),
        replace(add, seed=2, modulus=29, share=0.5),
        replace(add, seed=3, modulus=37),
        replace(add, seed=4, modulus=37, share=0.45, lr=2e-3),
        replace(add, seed=5, weight_decay=0.6),
        replace(add, kind="never", seed=6, share=0.15, steps=1500),
        replace(add, kind="never", seed=7, share=0.2, modulus=37, steps=1500),
        replace(add, kind="never", seed=8, operation="subtract", steps=1500),
        replace(add, kind="overfit", seed=9, weight_decay=0.0, steps=1200),
        replace(add, kind="overfit", seed=10, weight_decay=0.0, modulus=37, share=0.25, steps=1200),
        replace(text_a, kind="overfit", seed=11, share=0.05, weight_decay=0.0),
        replace(text_b, kind="overfit", seed=12, share=0.1),
        replace(add, seed=13, modulus=47, share=0.85, steps=700),
        replace(text_a, seed=14, steps=2500),
        replace(text_b, seed=15, lr=1e-3),
        replace(add, kind="restart", seed=16, cycle=300),
        replace(add, kind="restart", seed=17, share=0.2, cycle=300, steps=1500),
        replace(add, kind="restart", seed=18, weight_decay=0.0, cycle=300, steps=1200),
        replace(text_a, kind="restart", seed=19, share=0.05, cycle=250),
        replace(text_b, kind="restart", seed=20, cycle=250),
    ]
    add = replace(add, held_out=True)
    multiply = replace(add, operation="multiply")
    subtract = replace(add, operation="subtract")
    text = replace(text_a, held_out=True, language="qac")
    held_out = [
        replace(add, seed=101, modulus=29, share=0.55),
        replace(multiply, seed=102, share=0.5),
        replace(multiply, seed=103, share=0.45),
        replace(multiply, seed=104, modulus=37),
        replace(multiply, seed=105, modulus=29, share=0.5),
        replace(add, seed=106, share=0.45),
        replace(multiply, seed=107, modulus=37, share=0.45, lr=2e-3),
        replace(add, seed=108, modulus=41),
        replace(multiply, seed=109, modulus=23, share=0.6),
        replace(multiply, seed=110, modulus=41, steps=2000),
        replace(multiply, kind="never", seed=111, share=0.15, steps=1500),
        replace(add, kind="never", seed=112, modulus=41, share=0.15, steps=1500),
        replace(subtract, kind="never", seed=113, modulus=37, share=0.35, steps=1500),
        replace(multiply, kind="never", seed=114, modulus=29, share=0.25, steps=1500),
        replace(multiply, kind="overfit", seed=115, weight_decay=0.0, steps=1200),
        replace(subtract, kind="overfit", seed=116, weight_decay=0.0, share=0.5, steps=1200),
        replace(add, kind="overfit", seed=117, weight_decay=0.0, modulus=29, share=0.3, steps=1200),
        replace(text, kind="overfit", seed=118, share=0.05, weight_decay=0.0),
        replace(text, kind="overfit", seed=119, share=0.1),
        replace(multiply, seed=120, modulus=47, share=0.85, steps=700),
        replace(add, seed=121, modulus=37, share=0.45),
        replace(text, seed=122, steps=2500),
        replace(text, seed=123, lr=1e-3),
        replace(text, seed=130, language="qaa"),
        replace(text, seed=131, language="qab", weight_decay=1.0),
        replace(multiply, kind="restart", seed=124, share=0.5, cycle=250),
        replace(add, kind="restart", seed=125, modulus=41, cycle=500),
        replace(multiply, kind="restart", seed=126, share=0.2, cycle=400, steps=1500),
        replace(subtract, kind="restart", seed=127, share=0.5, weight_decay=0.0, cycle=300, steps=1200),
        replace(text, kind="restart", seed=128, share=0.05, cycle=200),
        replace(text, kind="restart", seed=129, cycle=250),
    ]
    return tuning + held_out


@dataclass(frozen=True)
class SmallRecipe:
    """A run of one hidden layer of 128 on (a + b) mod p, full batch."""

    kind: str
    seed: int
    modulus: int
    share: float
    lr: float
    weight_decay: float
    steps: int

    @property
    def name(self) -> str:
        return f"small-s{self.seed}"


def small_recipes() -> list[SmallRecipe]:
    """Twelve that may grok, and eight that have too few pairs or too little decay."""
    found = []
    for seed in range(12):
        share, decay, lr = (0.65, 0.7, 0.75, 0.8)[seed % 4], (1.0, 2.0)[seed // 4 % 2], (0.01, 0.005)[seed // 8 % 2]
        found.append(SmallRecipe("grokking", seed, (23, 29)[seed % 2], share, lr, decay, 2500))
    for seed in range(24, 32):
        share, decay = (0.3, 0.35, 0.4, 0.5)[seed % 4], (0.0, 1.0, 0.3)[seed % 3]
        found.append(SmallRecipe("never", seed, 23, share, 0.01, decay, 2000))
    return found


def train_small(recipe: SmallRecipe) -> list[Point]:
    """The run's curve; it ends early as that of a decoder does."""
    torch.manual_seed(recipe.seed)
    p = recipe.modulus
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    train_rows, val_rows = torch.randperm(p * p, generator=torch.Generator().manual_seed(recipe.seed)).split(
        [int(recipe.share * p * p), p * p - int(recipe.share * p * p)]
    )
    weights = [torch.nn.Parameter(torch.randn(shape) / 128**0.5) for shape in ((p, 128), (p, 128), (128, p))]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)

    def measure(rows: Tensor) -> tuple[Tensor, Tensor]:
        logits, targets = F.relu(weights[0][a[rows]] + weights[1][b[rows]]) @ weights[2], (a[rows] + b[rows]) % p
        return F.cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean()

    points: list[Point] = []
    end = recipe.steps
    while len(points) * EVERY < end:
        for _ in range(EVERY):
            optimizer.zero_grad()
            measure(train_rows)[0].backward()
            optimizer.step()
        with torch.no_grad():
            (train_loss, train_hits), (val_loss, val_hits) = measure(train_rows), measure(val_rows)
        step = (len(points) + 1) * EVERY
        measured = train_loss.item(), val_loss.item(), train_hits.item(), val_hits.item()
        points.append(Point(step, *measured, recipe.lr))
        if end == recipe.steps and val_hits >= 0.99:
            end = min(end - 1, max(int(1.25 * step), step + 200))
    return points


def write(points: list[Point], path: Path) -> None:
    partial = path.with_suffix(".part")
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train_loss", "val_loss", "train_acc", "val_acc", "lr"])
        for point in points:
            values = point.train_loss, point.val_loss, point.train_accuracy, point.val_accuracy, point.learning_rate
            writer.writerow([point.step, *(f"{value:.5g}" for value in values)])
    partial.rename(path)


@dataclass(frozen=True)
class Curve:
    """What the detector is given, and the truth."""

    kind: str
    points: list[Point]
    groks: bool
    improves: bool
    accuracies: list[float]
    """Of validation, also where the points do not tell."""


def groks(points: list[Point]) -> bool:
    """The definition of this module's docstring."""
    memorised = next((p.step for p in points if (p.train_accuracy or 0) >= 0.99), math.inf)
    generalised = next((p.step for p in points if (p.val_accuracy or 0) >= 0.95), math.inf)
    return generalised < math.inf and generalised - memorised >= 0.5 * memorised


def improves(points: list[Point]) -> bool:
    """The other definition of this module's docstring."""
    memorised = next((p.step for p in points if (p.train_accuracy or 0) >= 0.99), math.inf)
    before = max((p.val_accuracy or 0 for p in points if p.step <= 1.5 * memorised), default=0)
    return memorised < math.inf and (points[-1].val_accuracy or 0) >= before + 0.1


def curves(runs: list[tuple[Recipe | SmallRecipe, list[Point]]]) -> list[Curve]:
    """The curves of runs, and those made of them."""
    texts = [points for recipe, points in runs if recipe.kind == "ordinary" and not is_arithmetic(recipe)]
    found = []
    for number, (recipe, points) in enumerate(runs):
        made = {recipe.kind: (points, points)}
        if recipe.kind != "restart":
            made["20 % noise"] = noisy(points, number), points
            made["log-spaced"] = log_spaced(points), log_spaced(points)
            for n in (10, 25):
                made[f"thinned {n}"] = 2 * (held(points)[n - 1 :: n],)
            made["steps x 100"] = [replace(p, step=100 * p.step) for p in points], points
            made["numbered"] = [replace(p, step=index) for index, p in enumerate(points)], points
            if is_arithmetic(recipe):
                made["memorised text"] = memorised_text(held(points)), held(points)
                if texts:
                    made["diluted"] = diluted(points, max(texts, key=len)), points
        for kind, (given, judged) in made.items():
            accuracies = [p.val_accuracy or 0.0 for p, _ in zip(judged, given, strict=False)]
            found.append(Curve(kind, given, groks(points), improves(points), accuracies))
    order = [*dict.fromkeys(recipe.kind for recipe, _ in runs)]
    return sorted(found, key=lambda curve: order.index(curve.kind) if curve.kind in order else len(order))


def is_arithmetic(recipe: Recipe | SmallRecipe) -> bool:
    return isinstance(recipe, SmallRecipe) or recipe.operation is not None


def noisy(points: list[Point], seed: int) -> list[Point]:
    random = np.random.default_rng(seed)
    return [
        replace(
            p,
            train_loss=p.train_loss * math.exp(0.2 * random.normal()),
            val_loss=p.val_loss * math.exp(0.2 * random.normal()),
            train_accuracy=random.binomial(100, p.train_accuracy) / 100,
            val_accuracy=random.binomial(100, p.val_accuracy) / 100,
        )
        for p in points
    ]


def log_spaced(points: list[Point]) -> list[Point]:
    """The first point, then each that is a 32nd of a decade, or 200 steps, after the one kept before it."""
    kept = points[:1]
    for point in points[1:]:
        if point.step >= kept[-1].step + min(200, (10 ** (1 / 32) - 1) * kept[-1].step):
            kept.append(point)
    return kept


def diluted(points: list[Point], text: list[Point]) -> list[Point]:
    return [
        Point(p.step, *(0.2 * getattr(p, name) + 0.8 * getattr(t, name) for name in ("train_loss", "val_loss")))
        for p, t in zip(points, text, strict=False)
    ]


def held(points: list[Point]) -> list[Point]:
    """The curve with its end held for four times its length."""
    last = points[-1]
    return points + [replace(last, step=last.step + EVERY * (n + 1)) for n in range(4 * len(points))]


def memorised_text(points: list[Point], share: float = 0.5, entropy: float = 1.0) -> list[Point]:
    """The losses of tokens of which a share follows the rule."""
    unknown = {p.step: 1 / (1 + (p.step / 300) ** 2) for p in points}
    return [
        Point(
            p.step,
            share * p.train_loss + (1 - share) * (0.03 + 5.47 * unknown[p.step]),
            share * p.val_loss + (1 - share) * (entropy + (5.5 - entropy) * unknown[p.step]),
        )
        for p in points
    ]


def without_accuracies(points: list[Point]) -> list[Point]:
    return [replace(point, train_accuracy=None, val_accuracy=None) for point in points]


JUDGES: dict[str, Callable[[list[Point]], list[Event]]] = {
    "states": lambda points: events_of(GrokkingDetector(), points),
    "losses alone": lambda points: events_of(GrokkingDetector(), without_accuracies(points)),
    "window of 100": lambda points: events_of(WindowRule(100), points),
}
COLUMNS = [
    ("states", "grokked"),
    ("states", "undecidable"),
    ("states", "grokking_confirmed"),
    ("states", "grokking_onset"),
    ("losses alone", "late_improvement"),
    ("losses alone", "grokking_confirmed"),
    ("window of 100", "grokked"),
]
"""Judge and claim."""
BY_ACCURACY = COLUMNS[:2]
"""Claims that are made of curves with accuracies alone."""


def wilson(hits: int, n: int) -> str:
    """The 95 % interval of a share (Wilson, 1927)."""
    if not n:
        return "none"
    z, share = 1.96, hits / n
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (max(0.0, (middle + sign * half) / (1 + z**2 / n)) for sign in (-1, 1))
    return f"{share:.2f} ({low:.2f}-{high:.2f})"


def table(judged: list[Curve]) -> str:
    """Markdown: of each kind of curve, what is claimed of those that grok, or improve, and of the others."""
    heads = [f"{judge}: {claim.removeprefix('grokking_')}" for judge, claim in COLUMNS]
    lines = [f"| kind | curves | grok | {' | '.join(heads)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    claims = [{(j, e.kind) for j, judge in JUDGES.items() for e in judge(curve.points)} for curve in judged]
    for kind in [*dict.fromkeys(curve.kind for curve in judged), "all"]:
        chosen = [(c, found) for c, found in zip(judged, claims, strict=True) if kind in (c.kind, "all")]
        cells = []
        for column in COLUMNS:
            asked = [
                (c, found) for c, found in chosen if c.points[0].val_accuracy is not None or column not in BY_ACCURACY
            ]
            truth = [c.improves if column[1] == "late_improvement" else c.groks for c, _ in asked]
            said = [column in found for _, found in asked]
            n, hits = sum(truth), sum(t and s for t, s in zip(truth, said, strict=True))
            false = sum(said) - hits
            if kind == "all":
                cells.append(f"{wilson(hits, n)} found, {wilson(false, len(asked) - n)} false")
            else:
                cells.append("-" if not asked else f"{hits} of {n}, {false} false" if n else f"{false} false")
        lines.append(f"| {kind} | {len(chosen)} | {sum(c.groks for c, _ in chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def moves(judged: list[Curve]) -> str:
    """Markdown: the onsets, and what was called lost again; and at how many the validation accuracy says otherwise.

    It does where it never is 0.05 above the plateau's after an onset, and where it is still there at a loss: 0.05 above
    the plateau's, and no more than 0.05 below its best.
    """
    lines = [
        "| judge | onsets | without a rise | relapses, collapses | with the accuracy still there |",
        "|---" * 5 + "|",
    ]
    for name in ("states", "losses alone"):
        onsets = [event for curve in judged for event in _moves_of(curve, name, ("grokking_onset",))]
        losses = [event for curve in judged for event in _moves_of(curve, name, ("relapse", "collapse"))]
        lines.append(f"| {name} | {len(onsets)} | {sum(onsets)} | {len(losses)} | {sum(losses)} |")
    return "\n".join(lines)


def _moves_of(curve: Curve, judge: str, kinds: tuple[str, ...]) -> list[bool]:
    """Of each event of these kinds, whether the validation accuracy says otherwise."""
    at = {p.step: index for index, p in enumerate(curve.points)}
    plateau, found = 0, []
    level = 0.0
    for event in JUDGES[judge](curve.points):
        index = at[event.step]
        if event.kind == "plateau":
            plateau = index
        if event.kind == "grokking_onset":
            level = float(np.median(curve.accuracies[plateau : index + 1]))
        if event.kind in kinds:
            now, best = max(curve.accuracies[max(0, index - 2) : index + 1]), max(curve.accuracies[: index + 1])
            no_rise = max(curve.accuracies[index:]) < level + 0.05
            still_there = now >= max(level, best - 0.1) + 0.05
            found.append(no_rise if event.kind == "grokking_onset" else still_there)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="train what this directory lacks, then judge")
    parser.add_argument("--table", type=Path, help="judge the curves of this directory")
    parser.add_argument("--tuning", action="store_true", help="the runs of the tuning, not the held-out")
    parser.add_argument("--small", action="store_true", help="the runs of a network of one hidden layer")
    options = parser.parse_args()
    directory = options.out or options.table
    held_out = [recipe for recipe in recipes() if recipe.held_out != options.tuning]
    chosen: list[Recipe | SmallRecipe] = [*small_recipes()] if options.small else [*held_out]
    if options.out:
        torch.set_num_threads(1)
        directory.mkdir(parents=True, exist_ok=True)
        for recipe in chosen:
            path = directory / f"{recipe.name}.csv"
            if not path.exists():
                started = time.process_time()
                write(train_small(recipe) if isinstance(recipe, SmallRecipe) else train(recipe), path)
                print(f"{path}: {time.process_time() - started:.0f} CPU-seconds", flush=True)
    judged = curves([(recipe, read_csv(directory / f"{recipe.name}.csv")) for recipe in chosen])
    print(f"{table(judged)}\n\n{moves(judged)}")


if __name__ == "__main__":
    main()
