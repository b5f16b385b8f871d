"""The data that a run learns from, and its tasks and batches."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from genesis_ds.config.checks import LARGEST_BATCH, LARGEST_MODULUS, WIDEST, require, require_positive
from genesis_ds.errors import UserError

Operation = Literal["add", "subtract", "multiply"]
ARITHMETIC_SEQ_LEN = 3
"""Tokens of an arithmetic sequence: a, b and the sign =."""


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids."""

    kind: Literal["bytes", "bpe"] = "bytes"
    """bytes: 256 UTF-8 bytes and 4 specials, the character tokenizer. bpe: a trained SentencePiece model."""
    path: str | None = None
    """The SentencePiece model of a bpe tokenizer."""

    def __post_init__(self) -> None:
        if (self.kind == "bpe") != (self.path is not None):
            need = "needs the path of a trained model" if self.kind == "bpe" else "takes no path"
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
    """The operation op."""
    train_share: float = 0.3
    """Share of the p^2 pairs that is trained on, rounded down to whole pairs. The others are validation."""
    split_seed: int = 0
    """Chooses which pairs are trained on."""

    def __post_init__(self) -> None:
        if self.modulus is not None:
            allowed = f"a whole number from 2 to {LARGEST_MODULUS:,}"
            require("arithmetic.modulus", self.modulus, 2 <= self.modulus <= LARGEST_MODULUS, allowed)
            require("arithmetic.train_share", self.train_share, 0 < self.train_share < 1, "a share between 0 and 1")
            n_pairs = self.modulus**2
            some_of_each = 0 < int(self.train_share * n_pairs) < n_pairs
            allowed = f"a share between 0 and 1 that takes some of the {n_pairs} pairs"
            require("arithmetic.train_share", self.train_share, some_of_each, allowed)
        elif given := [field.name for field in fields(self) if getattr(self, field.name) != field.default]:
            raise UserError(f"arithmetic.{given[0]}: needs arithmetic.modulus as well; give that, or leave it out")


@dataclass(frozen=True)
class VerseTasksConfig:
    """The tasks on verses: coherence, cross_reference and paraphrase."""

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

    def __post_init__(self) -> None:
        if self.slot_sequences is not None:
            require_positive("verse_tasks.slot_sequences", self.slot_sequences, LARGEST_BATCH)
        require("verse_tasks.margin", self.margin, 0 < self.margin <= 2, "a number above 0, at most 2")
        require("verse_tasks.temperature", self.temperature, 0 < self.temperature < math.inf, "a positive number")
        require_positive("verse_tasks.projection_dim", self.projection_dim, WIDEST)


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
