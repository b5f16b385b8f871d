"""The training runs whose curves judge the grokking detector (grokking_curves.py), and their CSV files."""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_ds.analysis.points import Point
from genesis_ds.config import ModelConfig, Operation
from genesis_ds.corpus.splits import split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.model.output import IGNORE
from genesis_ds.model.transformer import Transformer
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
