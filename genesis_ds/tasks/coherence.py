"""Coherence: does the second verse of a pair follow the first?

Every first verse has a successor among the verses and every second one a predecessor, whatever the label, so that
neither of them alone tells it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.config import VerseTasksConfig
from genesis_ds.data.verse_table import BOOK, LANGUAGE, VerseTable
from genesis_ds.errors import Unavailable
from genesis_ds.model.linear import Linear
from genesis_ds.tasks.base import Batch, Model, Score, TaskContext
from genesis_ds.tasks.verse_evaluation import Answer, Guesses, Judgement, VerseEvaluation
from genesis_ds.tasks.verse_task import Examples, Packer, VerseTask, apportion, below
from genesis_ds.tokenizer import Tokenizer

NEGATIVES = {"same_chapter": 0.4, "near_chapter": 0.3, "swapped": 0.15, "other_book": 0.15}
"""Shares of the negatives; the share of a kind that the verses do not allow goes to the others."""
APART = 3
"""Least distance in verses of a same_chapter pair."""
NEAR_CHAPTERS = 2
"""How many chapters before and after its own a near_chapter pair reaches, of those with second verses in the book."""
VERSES_OF_A_PAIR = 2


class CoherenceHead(nn.Module):
    """An MLP on x, y, |x - y| and xy (arXiv 1705.02364) that tells whether the second verse y follows the first, x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = Linear(4 * dim, dim, gain=None)
        self.output = Linear(dim, 1, gain=None)

    def forward(self, verses: Tensor, examples: Tensor) -> Tensor:
        """Return fp32 logits [m] for verses [n, D] and pairs of them [m, 2]."""
        x, y = verses[examples[:, 0]], verses[examples[:, 1]]
        features = torch.cat([x, y, (x - y).abs(), x * y], dim=-1)
        logits: Tensor = self.output(F.gelu(self.hidden(features))).squeeze(-1).float()
        return logits


class Coherence(VerseTask):
    """The task of coherence: pairs of verses of one language, half of them positive: (v, v + 1).

    Negatives: v and a verse at least APART from it in its chapter; v and one of a near chapter of its book; (v, v - 1);
    v and one of another book. v is uniform among the verses of which there is a pair of this kind.
    """

    name = "coherence"
    kinds = ("consecutive", *NEGATIVES)

    @classmethod
    def build(cls, context: TaskContext) -> "Coherence":
        return cls(context.verses("train"), context.seq_len, context.rows_per_pack, context.seed)

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module:
        return CoherenceHead(dim)

    def __init__(self, verses: VerseTable, seq_len: int, rows_per_pack: int, seed: int) -> None:
        """Raises Unavailable when no two verses are consecutive, or no pair is a negative."""
        keys, tiers = verses.keys, "/".join(verses.tiers)
        self.firsts = np.flatnonzero((np.diff(keys) == 1) & (keys[:-1] % 1000 > 0))
        self.seconds = self.firsts + 1
        if len(keys) and not (keys % 1000).any():
            raise Unavailable("the corpus holds whole chapters and no verses; import a text by verses")
        if not len(self.firsts):
            remedy = verses.remedy("import a more complete text")
            raise Unavailable(f"no two {tiers} verses are consecutive; {remedy}")
        self.ranges = _ranges(keys[self.firsts], keys[self.seconds])
        possible = _sizes(self.ranges) > 0
        self.pairs = np.flatnonzero(possible)
        self.n_pairs = possible.sum(1)
        negatives = np.array(list(NEGATIVES.values())) * (self.n_pairs[1:] > 0)
        if not negatives.any():
            remedy = verses.remedy("import a more complete text")
            raise Unavailable(f"no two {tiers} verses make a negative pair; {remedy}")
        self.shares = [negatives.sum(), *negatives]
        super().__init__(verses, seq_len, rows_per_pack, seed)

    def draw(self, key: str, n: int) -> Examples:
        """Return n pairs, a pure function of (seed, key)."""
        bits = self.bits(key, 3, n)
        kinds = apportion(bits[0], self.shares)
        starts = np.cumsum(self.n_pairs) - self.n_pairs
        pairs = self.pairs[starts[kinds] + below(bits[1], self.n_pairs[kinds])]
        ranges = self.ranges.reshape(4, -1)[:, pairs]
        start, _, gap_start, gap_stop = ranges
        second = start + below(bits[2], _sizes(ranges))
        second += (second >= gap_start) * (gap_stop - gap_start)
        first = pairs % len(self.firsts)
        return Examples(np.stack([self.firsts[first], self.seconds[second]], axis=1), kinds)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of logits [n] that the second verse follows the first, and which are right."""
        follows = batch.labels["kinds"] == 0
        weights = batch.labels["weights"]
        loss = F.binary_cross_entropy_with_logits(output, follows.float(), weights, reduction="sum")
        return loss, (output > 0) == follows

    def evaluation(self, context: TaskContext) -> "PairAccuracy":
        return PairAccuracy(context)


class PairAccuracy(VerseEvaluation):
    """Measures the accuracy on pairs of validation verses, of all kinds and of each.

    A score is the mean cross-entropy in nats and the share of right pairs of a language.
    """

    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        self.pairs: dict[str, tuple[Packer, Examples]] = {}
        for split, tier in context.splits.items():
            if pairs := _pairs(context.verses(tier), context):
                self.pairs[split] = pairs
        self.of_training = self.pairs.get(metrics.TRAIN_SUBSET) or _pairs(context.verses("train"), context)

    def judge(self, model: Model, *, with_training: bool = True) -> Iterator[Judgement]:
        for split, (packer, examples) in self.pairs.items():
            if with_training or split != metrics.TRAIN_SUBSET:
                yield self._judge(split, examples, packer, packer.outputs(model, Coherence.name, examples))

    def guess(self, tokenizer: Tokenizer) -> Iterator[Guesses]:
        """Return what logistic regressions say that have seen the surface of training pairs; nothing of one class."""
        asked = {split: pairs for split, pairs in self.pairs.items() if split != metrics.TRAIN_SUBSET}
        if self.of_training is None or len(np.unique(labels := self.of_training[1].kinds == 0)) < 2:
            return
        from genesis_ds.analysis.surface import fit_and_predict, surfaces_of_pairs

        parts = [self.of_training, *asked.values()]
        texts = [packer.verses.texts(examples.verses.T.ravel(), tokenizer) for packer, examples in parts]
        languages = [packer.verses.languages[examples.verses[:, 0]] for packer, examples in parts]
        for surface, (seen, *others) in surfaces_of_pairs(texts, languages).items():
            predicted = fit_and_predict(seen, labels, others)
            for (split, (_, examples)), follows in zip(asked.items(), predicted, strict=True):
                yield Guesses(surface, _by_kind(split, examples, follows))

    def _judge(self, split: str, examples: Examples, packer: Packer, logits: NDArray[np.float32]) -> Judgement:
        follows = examples.kinds == 0
        right = (logits > 0) == follows
        losses = np.logaddexp(0, np.where(follows, -logits, logits))
        trials = _by_kind(split, examples, logits > 0)
        answers = [Answer(name, values, {metrics.CHANCE: 0.5}) for name, values in trials.items()]
        languages = packer.verses.languages[examples.verses[:, 0]]
        scores = {}
        for i, label in enumerate(packer.verses.labels):
            if (own := languages == i).any():
                scores[f"{Coherence.name}/{label}"] = Score(float(losses[own].mean()), float(right[own].mean()))
        return Judgement(split, answers, scores)


def _by_kind(split: str, examples: Examples, follows: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return which pairs are right [n], of all kinds and of each there is, by metric. follows: what is said of each."""
    right = (follows == (examples.kinds == 0)).astype(np.float64)
    accuracy = metrics.judged(split, Coherence.name, "accuracy")
    of_kind = {f"{accuracy}/{name}": right[examples.kinds == kind] for kind, name in enumerate(Coherence.kinds)}
    return {accuracy: right} | {name: values for name, values in of_kind.items() if len(values)}


def _pairs(verses: VerseTable, context: TaskContext) -> tuple[Packer, Examples] | None:
    """Return pairs of the verses that fit in a pack, of as many verses as there are or max_verses allows.

    None where no pair can be made.
    """
    try:
        task = Coherence(verses, context.seq_len, context.micro_batch_size, seed=0)
    except Unavailable:
        return None
    most = min(len(verses), context.evaluation.max_verses or len(verses))
    drawn = task.draw("evaluation", most // VERSES_OF_A_PAIR)
    fitting = [number for pack in task.packer.pack(drawn) for number in pack.numbers.tolist()]
    return (task.packer, Examples(drawn.verses[fitting], drawn.kinds[fitting])) if fitting else None


def _ranges(firsts: NDArray[np.int64], seconds: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the second verses of each kind of pair, [4, kinds, n]: start and stop, and those of a gap in between.

    firsts [n] and seconds [n] are the ascending keys of the verses that can come first and second.
    """

    def before(keys: NDArray[np.int64]) -> NDArray[np.int32]:
        return np.searchsorted(seconds, keys).astype(np.int32)

    def own(size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Start and stop of the unit of so many keys that each first verse is in, looked for once a unit."""
        units = firsts // size
        begins = np.flatnonzero(np.diff(units, prepend=-1))
        counts = np.diff(begins, append=len(units))
        start, stop = (np.repeat(before((units[begins] + one) * size), counts) for one in (0, 1))
        return start, stop

    own_chapter, own_book, own_language = own(1000), own(BOOK), own(LANGUAGE)
    chapters = np.flatnonzero(np.diff(seconds // 1000, prepend=-1, append=-1)).astype(np.int32)
    chapter = np.searchsorted(chapters, own_chapter[0])
    near_start = np.maximum(chapters[np.maximum(chapter - NEAR_CHAPTERS, 0)], own_book[0])
    near_stop = np.minimum(chapters[np.minimum(chapter + NEAR_CHAPTERS + 1, len(chapters) - 1)], own_book[1])
    here = before(firsts)
    ranges = {
        "consecutive": (before(firsts + 1), before(firsts + 2), here, here),
        "same_chapter": (*own_chapter, before(firsts - APART + 1), before(firsts + APART)),
        "near_chapter": (near_start, near_stop, *own_chapter),
        "swapped": (before(firsts - 1), here, here, here),
        "other_book": (*own_language, *own_book),
    }
    return np.stack([ranges[kind] for kind in Coherence.kinds], axis=1)


def _sizes(ranges: NDArray[np.int32]) -> NDArray[np.int32]:
    start, stop, gap_start, gap_stop = ranges
    sizes: NDArray[np.int32] = stop - start - (gap_stop - gap_start)
    return sizes
