"""The data that a run learns from, and its tasks and batches."""

import math
from dataclasses import dataclass, field
from typing import Literal

from genesis_ds.config.checks import (
    LARGEST_BATCH,
    LARGEST_MODULUS,
    WIDEST,
    require,
    require_count,
    require_positive,
    require_switched_on,
)
from genesis_ds.errors import UserError

ChapterOrder = Literal["canonical", "shuffled"]
Operation = Literal["add", "subtract", "multiply", "divide"]
FURTHEST_AHEAD = 64
"""The most of verse_tasks.tokens_ahead."""
ARITHMETIC_SEQ_LEN = 3
"""Tokens of an arithmetic sequence: a, b and the sign =."""


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: Literal["bytes", "char", "bpe"] = "bytes"
    """bytes: 256 UTF-8 bytes and 4 specials. char: characters, bpe: byte pairs, of a trained SentencePiece model."""
    path: str | None = None
    """The SentencePiece model of characters or byte pairs (`genesis-ds tokenizer train`)."""

    def __post_init__(self) -> None:
        if (self.kind == "bytes") != (self.path is None):
            need = "takes no path" if self.kind == "bytes" else "needs the path of a trained model"
            raise UserError(f"tokenizer.path: kind '{self.kind}' {need}; see tokenizers/README.md")


@dataclass(frozen=True)
class DataConfig:
    """What text the run sees."""

    corpus: str = "corpora/bible"
    """Directory of an imported or fetched corpus (`genesis-ds corpus fetch|import`)."""
    languages: list[str] = field(default_factory=list)
    """Languages (BCP-47) or translation names to train on; empty: all in the corpus."""
    token_sets: str = "token_sets"
    """Directory where compiled token sets are kept."""
    split_seed: int = 0
    """Chooses which chapters are validation."""
    chapter_order: ChapterOrder = "canonical"
    """Order of the chapters in which language modelling cuts its windows. shuffled: another one in every epoch, so that
    windows begin and go on elsewhere each time; in canonical order their borders move within one window."""
    cross_references: str | None = None
    """An OpenBible.info TSV whose cross-references are added to the corpus's own."""

    def __post_init__(self) -> None:
        once = len(set(self.languages)) == len(self.languages)
        require("data.languages", self.languages, once, "each language once")


@dataclass(frozen=True)
class ArithmeticConfig:
    """(a op b) mod p in the place of text: the positive control of grokking (arXiv 2201.02177).

    A run with a modulus learns lm alone, on sequences of three tokens (a, b, =) with the loss on the answer.
    """

    modulus: int | None = None
    """The modulus p. None: the run is of text."""
    operation: Operation = "add"
    """The operation op. divide: a times the inverse of b, of a prime p, for b from 1 on."""
    train_share: float = 0.3
    """Share of the p^2 pairs (p (p - 1) of a division) that is trained on, rounded down to whole pairs. The others are
    validation."""
    split_seed: int = 0
    """Chooses which pairs are trained on."""

    def __post_init__(self) -> None:
        if self.modulus is not None:
            allowed = f"a whole number from 2 to {LARGEST_MODULUS:,}"
            require("arithmetic.modulus", self.modulus, 2 <= self.modulus <= LARGEST_MODULUS, allowed)
            require("arithmetic.train_share", self.train_share, 0 < self.train_share < 1, "a share above 0 and below 1")
            divides = self.operation == "divide"
            if divides:
                is_prime = all(self.modulus % n for n in range(2, math.isqrt(self.modulus) + 1))
                require("arithmetic.modulus", self.modulus, is_prime, "a prime where arithmetic.operation is divide")
            n_pairs = self.modulus * (self.modulus - divides)
            some_of_each = 0 < int(self.train_share * n_pairs) < n_pairs
            allowed = f"a share between 0 and 1 that takes some of the {n_pairs} pairs"
            require("arithmetic.train_share", self.train_share, some_of_each, allowed)
        else:
            require_switched_on("arithmetic", self, "modulus")


@dataclass(frozen=True)
class MaskingConfig:
    """Masked input for language modelling: the model reads <unk> in some places, and the targets stay what they are."""

    kind: Literal["none", "word", "span", "random"] = "none"
    """none: the input is the text. word: whole words are masked. span: runs of 1 to 10 words with what stands between
    them (SpanBERT, arXiv 1907.10529). random: single tokens."""
    share: float = 0.15
    """Share of a masked sequence's tokens that are."""
    share_of_each: Literal["same", "drawn"] = "same"
    """drawn: each sequence has a share of its own, evenly between 0 and `share`."""
    sequences: float = 1.0
    """Share of the sequences that are masked; the others stay whole, so that both losses are learned from."""
    start: int = 0
    """Optimizer steps before masking begins."""
    ramp: int = 0
    """Optimizer steps from there over which the share rises from 0."""
    end: int = 0
    """Optimizer step after which nothing is masked any more. 0: none."""
    connectives_weight: float = 1.0
    """How many times as likely as another word one of connectives.words is to be drawn."""
    loss_weight: float = 0.0
    """Above 0: the masked input does not take the place of the text but stands beside it, and its loss is added with
    this weight (masked-input regularisation, arXiv 2606.06888). Every sequence then goes through the model twice."""

    def __post_init__(self) -> None:
        if not self.is_on:
            require_switched_on("masking", self, "kind")
        require("masking.share", self.share, 0 < self.share < 1, "a share above 0 and below 1")
        require("masking.sequences", self.sequences, 0 < self.sequences <= 1, "a share above 0, at most 1")
        require_count("masking.start", self.start)
        require_count("masking.ramp", self.ramp)
        ends = self.end == 0 or self.end > self.start
        require("masking.end", self.end, ends, "a step after masking.start, or 0")
        weight = self.connectives_weight
        require("masking.connectives_weight", weight, 0 < weight < math.inf, "a positive number")
        require("masking.loss_weight", self.loss_weight, 0 <= self.loss_weight < math.inf, "zero or more")
        if self.loss_weight and self.sequences != 1:
            raise UserError(
                f"masking.sequences: {self.sequences:g}, but with masking.loss_weight every sequence is read both as "
                "it is and masked; leave out one of them"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is masked."""
        return self.kind != "none"

    @property
    def readings(self) -> int:
        """How often a sequence goes through the model in a step: as it is, and masked where that adds a loss."""
        return 2 if self.loss_weight else 1


@dataclass(frozen=True)
class DistillConfig:
    """Distillation: language modelling learns from the probabilities of trained models too (arXiv 1503.02531).

    What it minimises is (1 - weight) x cross-entropy + weight x temperature^2 x KL(teacher || model).
    """

    teacher: list[str] = field(default_factory=list)
    """Models of the run's tokenizer: runs, checkpoints, exports or files of weights. Several teach the mean of their
    probabilities. Empty: nothing is distilled."""
    weight: float = 0.5
    """Share of the teacher in what is minimised."""
    temperature: float = 1.0
    """By which the logits of the teacher and of the model are divided where they are compared."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher is computed. auto: on the GPU if the memory plan has room for it there."""

    def __post_init__(self) -> None:
        if not self.is_on:
            require_switched_on("distill", self, "teacher")
        require("distill.weight", self.weight, 0 < self.weight <= 1, "a share above 0, at most 1")
        require("distill.temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")

    @property
    def is_on(self) -> bool:
        """Whether anything is distilled."""
        return bool(self.teacher)


@dataclass(frozen=True)
class VerseTasksConfig:
    """The tasks on verses, coherence, cross_reference and paraphrase, and multi_token."""

    slot_sequences: int | None = None
    """Sequences in a row that belong to one task, over all ranks. None: micro_batch_size x ranks at the start."""
    contrast: Literal["margin", "in_batch"] = "margin"
    """Loss of cross_reference and paraphrase. margin: relu(margin - cos(anchor, positive) + cos(anchor, negative)).
    in_batch: cross-entropy over the verses of the positive's language in the pack (InfoNCE, arXiv 1807.03748)."""
    margin: float = 0.2
    """Margin of the margin loss, in cosines."""
    temperature: float = 0.07
    """Temperature of the in_batch loss, by which cosines are divided."""
    projection_dim: int = 128
    """Width of the space in which cross_reference and paraphrase compare verses."""
    tokens_ahead: int = 4
    """How far multi_token predicts: from t + 2 to t + this many tokens."""

    def __post_init__(self) -> None:
        if self.slot_sequences is not None:
            require_positive("verse_tasks.slot_sequences", self.slot_sequences, LARGEST_BATCH)
        require("verse_tasks.margin", self.margin, 0 < self.margin <= 2, "a number above 0, at most 2")
        require("verse_tasks.temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")
        require_positive("verse_tasks.projection_dim", self.projection_dim, WIDEST)
        allowed = f"a whole number from 2 to {FURTHEST_AHEAD}"
        require("verse_tasks.tokens_ahead", self.tokens_ahead, 2 <= self.tokens_ahead <= FURTHEST_AHEAD, allowed)


@dataclass(frozen=True)
class BatchConfig:
    """How much text one optimizer step sees."""

    seq_len: int = 256
    """Tokens in one packed window."""
    global_batch_size: int = 16
    """Windows per optimizer step over all ranks; accumulation is derived from it."""
    micro_batch_size: int = 16
    """Windows per rank in one forward and backward pass."""

    def __post_init__(self) -> None:
        require_positive("batch.seq_len", self.seq_len)
        for name in ("global_batch_size", "micro_batch_size"):
            require_positive(f"batch.{name}", getattr(self, name), LARGEST_BATCH)
