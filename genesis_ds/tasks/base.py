"""What a task is: examples by global position, a loss of the model's output for them, and an evaluation.

A task is one module with a class derived from Task, and one line of the registry; a user's own is named under
`extensions.tasks` instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genesis_ds import metrics
from genesis_ds.config import EvaluationConfig, VerseTasksConfig
from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.data.arithmetic import ArithmeticTable
from genesis_ds.data.strata import Strata
from genesis_ds.data.token_set import VALIDATION_TIERS, TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.errors import Unavailable
from genesis_ds.tasks.canaries import Canaries
from genesis_ds.tasks.distillation import Teacher
from genesis_ds.tasks.masking import Masks
from genesis_ds.tokenizer import Tokenizer


@dataclass(frozen=True)
class Batch:
    """One rank's micro-batch of one task."""

    inputs: dict[str, Any]
    """What the model's forward takes: tokens int64 [B, T], and what the task adds."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """What the loss takes besides the output."""
    n_tokens: int = 0
    """Tokens that are not padding."""

    def to(self, device: torch.device) -> "Batch":
        """Return the same on a device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, {name: value.to(device) for name, value in self.labels.items()}, self.n_tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskContext:
    """What the tasks of a run are built and judged from."""

    data: TokenSet | ArithmeticTable
    links: CrossReferences = field(default_factory=CrossReferences)
    """Cross-references between verses; none in a run of arithmetic."""
    seq_len: int
    """Tokens of a row, T."""
    micro_batch_size: int
    """Rows of a batch on one rank, B; an evaluation makes its batches no larger."""
    rows_per_pack: int
    """Rows that the verses of one pack fill together; it divides the positions that a batch is asked for."""
    seed: int
    options: VerseTasksConfig = field(default_factory=VerseTasksConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    curves_of: str | None = None
    """The validation split whose curves are wanted; None: no curves, and nothing is asked of training data."""
    masks: Masks | None = None
    """What is masked in the input of language modelling; None: nothing."""
    teacher: Teacher | None = None
    """Whose probabilities language modelling learns from too; None: from nobody's."""
    canaries: Canaries | None = None
    """What language modelling is given among its text; None: nothing."""
    shuffle_chapters: bool = False
    """Whether language modelling takes the chapters in another order in every epoch."""
    tokenizer: Tokenizer | None = None
    """The text's; None: nothing is compared with what its surface gives."""
    strata: Strata | None = None
    """What tells apart the words of the text on which language modelling is judged; None: they are not told apart."""
    _tables: dict[tuple[str, ...], VerseTable] = field(default_factory=dict, init=False)

    @property
    def token_set(self) -> TokenSet:
        """The run's text. Raises Unavailable in a run of arithmetic."""
        if isinstance(self.data, TokenSet):
            return self.data
        raise Unavailable("a run of arithmetic has no text")

    @property
    def equations(self) -> ArithmeticTable:
        """The run's arithmetic. Raises Unavailable in a run of text."""
        if isinstance(self.data, ArithmeticTable):
            return self.data
        raise Unavailable("a run of text has no equations; give arithmetic.modulus")

    @property
    def splits(self) -> dict[str, str]:
        """What is judged, as metrics call it -> the tier of the text: validation, and training where curves are."""
        validation = {tier: tier for tier in VALIDATION_TIERS}
        return validation | ({metrics.TRAIN_SUBSET: "train"} if self.curves_of else {})

    def verses(self, *tiers: str) -> VerseTable:
        """Return the verses of these tiers that fit in a row, the same table at every call."""
        if tiers not in self._tables:
            self._tables[tiers] = VerseTable(self.token_set, tiers, self.seq_len)
        return self._tables[tiers]


MakeBatch = Callable[[], Batch]
"""Makes a batch when its turn comes, so that each rank makes its own alone."""


class Model(Protocol):
    """The model in evaluation mode. All ranks make the same calls, and each of them takes its share of the batches."""

    def sums(
        self, task: str, batches: Sequence[MakeBatch], measure: Callable[[Tensor, Batch], Sequence[float]]
    ) -> list[float]:
        """Return the sums over all batches of what `measure` says of the task's output for each."""
        ...

    def outputs(
        self, task: str, batches: Sequence[MakeBatch], numbers: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.float32]:
        """Return the output for every example, [n, ...]. numbers: of each batch's examples, 0 to n - 1 in all."""
        ...


class Losses(NamedTuple):
    """The loss of a micro-batch, and what is reported of it. All means, scalars."""

    total: Tensor
    """What is trained on."""
    right: Tensor | None = None
    """Which examples are right, bool [m]."""
    own: Tensor | None = None
    """The task's loss where the total has others besides; None: the total is it."""
    extra: Mapping[str, Tensor] = {}
    """Name, of the task's `extra_losses` -> what is reported beside it."""

    @property
    def reported(self) -> Tensor:
        """The loss that is reported as the task's."""
        return self.total if self.own is None else self.own


class Score(NamedTuple):
    """One value of a curve in which grokking is looked for."""

    loss: float
    """Loss in nats."""
    accuracy: float | None = None


@dataclass(frozen=True)
class Findings:
    """The results of an evaluation."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Name as of `metrics.judged` -> value; names with the suffixes CHANCE and TRIALS say what to read it beside."""
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Split -> curve (coherence/en) -> its value; a curve's name begins with its task's."""
    curves_of: str | None = None
    """The split of validation data whose scores make curves, with those of metrics.TRAIN_SUBSET."""

    def curves(self) -> dict[str, tuple[Score, Score]]:
        """Return the scores of each curve on training and on validation data, where it has both, as Python's numbers.

        Raises ValueError for an accuracy that is not from 0 to 1: in per cent all would be memorised.
        """
        validation: Mapping[str, Score] = self.scores.get(self.curves_of or "", {})
        train = self.scores.get(metrics.TRAIN_SUBSET, {})
        for curve, score in (*train.items(), *validation.items()):
            if score.accuracy is not None and (score.accuracy < 0 or score.accuracy > 1):
                raise ValueError(f"the curve {curve} has an accuracy of {score.accuracy:g}; give a share from 0 to 1")
        return {
            curve: (_of_python(score), _of_python(validation[curve]))
            for curve, score in train.items()
            if curve in validation
        }


def _of_python(score: Score) -> Score:
    """Return a score in floats, which a checkpoint's JSON takes, as those of numpy are not."""
    return Score(float(score.loss), None if score.accuracy is None else float(score.accuracy))


Evaluation = Callable[[Model], Findings]
"""Judges the model as it is, on the same examples every time."""


class Task(ABC):
    """A training task. Its examples are a pure function of the seed and the position."""

    name: str
    """The task's name, in `tasks` and in metrics."""
    kinds: tuple[str, ...] = ()
    """Kinds of examples whose accuracy is reported; a batch's label `kinds` has indices into them. Empty: none is."""
    extra_losses: tuple[str, ...] = ()
    """Names of parts of the loss that are reported apart, as train/NAME/TASK."""
    sequences_per_epoch: int | None = None
    """Sequences in one pass over the task's examples; None where new ones are drawn for ever."""

    @classmethod
    @abstractmethod
    def build(cls, context: TaskContext) -> "Task":
        """Return the task on a run's training data. Raises Unavailable with the reason where the run cannot have it."""

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module | None:
        """Return a freshly initialised head for hidden states of width D = dim; None: the decoder's output layer is.

        Its forward takes vectors [n, D], one for each document of the batch (the normed mean of its hidden states), and
        the batch's `examples` [m, k], numbers of documents. In micro-batches of other tasks it is called on one vector
        and examples of zeros [1, 2]. One that derives from `model.multitask.TokenHead` takes the hidden states of all
        tokens [B, T, D] instead, of others [1, 1, D], and gives states for the decoder's output layer.
        """
        return None

    @abstractmethod
    def batch(self, positions: range, /) -> Batch:
        """Return the rows at these positions of the task, the same for ever and on every rank."""

    def corrupted(self, batch: Batch, positions: range, step: int) -> Batch:
        """Return the batch at these positions as training sees it at an optimizer step, the first being 0.

        An evaluation does not call it. A pure function of (seed, positions, step) as well.
        """
        return batch

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the mean loss of a batch given the head's output, and which examples are right (bool [m], or None)."""

    def losses(self, output: Tensor, batch: Batch) -> Losses:
        """Return the loss as training takes it; of a task with `extra_losses`, with its parts."""
        return Losses(*self.loss(output, batch))

    def evaluation(self, context: TaskContext) -> Evaluation | None:
        """Return what judges the model at this task; None: nothing does."""
        return None
