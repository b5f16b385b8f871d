"""Language modelling on packed windows: no padding, no state, any number of ranks.

An epoch is one pass over the training tokens. In epoch e every language's stream is cut into windows of T+1 tokens
at stride T from an offset keyed by (seed, e), and all windows of all languages are visited in a permutation keyed by
(seed, e). So the window at a position of the task is a pure function of (seed, position). With `data.chapter_order:
shuffled` the chapters of every stream stand in an order keyed by (seed, e) before it is cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.data.chapters import ShuffledChapters
from genesis_ds.data.coverage import n_windows
from genesis_ds.data.keyed_random import keyed_bits, keyed_permutation
from genesis_ds.data.lexicon import Lexicon
from genesis_ds.data.strata import STRATA
from genesis_ds.data.token_set import VALIDATION_TIERS, Stream, TokenSet
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch, Findings, Losses, Model, Score, Task, TaskContext
from genesis_ds.tasks.bits_by_part import NatsByPart, PartWindows, bits_per_byte
from genesis_ds.tasks.canaries import Canaries
from genesis_ds.tasks.distillation import DISTILLATION, TEACHER, Teacher, distilled
from genesis_ds.tasks.masking import MASK_ID, Masks

MASKED_LOSS = "masked_loss"
"""The loss on masked input, where it is one of its own (`masking.loss_weight`)."""
FEWEST_WORDS = 20
"""Words in the windows of a split with which a stratum has a value."""


class LanguageModelling(Task):
    """The task of language modelling, on the training windows of a token set."""

    name = LM
    extra_losses = (MASKED_LOSS, DISTILLATION)
    sequences_per_epoch: int
    """Windows in one pass over the training tokens."""

    @classmethod
    def build(cls, context: TaskContext) -> "LanguageModelling":
        return cls(
            context.token_set,
            context.seq_len,
            context.seed,
            masks=context.masks,
            teacher=context.teacher,
            canaries=context.canaries,
            shuffle_chapters=context.shuffle_chapters,
        )

    def __init__(
        self,
        token_set: TokenSet,
        seq_len: int,
        seed: int,
        *,
        masks: Masks | None = None,
        teacher: Teacher | None = None,
        canaries: Canaries | None = None,
        shuffle_chapters: bool = False,
    ) -> None:
        """Raises UserError when no language has a whole window of training text, or there is no room for canaries."""
        self.seq_len, self.seed, self.masks, self.canaries, self.teacher = seq_len, seed, masks, canaries, teacher
        streams = {language: token_set.stream("train", language) for language in token_set.languages}
        self.streams = [stream.tokens for stream in streams.values()]
        self.chapters = [
            ShuffledChapters(stream, f"chapters/{seed}/{language}") if shuffle_chapters else None
            for language, stream in streams.items()
        ]
        self.n_windows = np.array([n_windows(len(stream), seq_len) for stream in self.streams])
        self.first_window = np.cumsum(self.n_windows) - self.n_windows
        self.sequences_per_epoch = int(self.n_windows.sum())
        if not self.sequences_per_epoch:
            longest = max(map(len, self.streams))
            raise UserError(f"batch.seq_len: {seq_len} is longer than the training text; give at most {longest - 1}")
        if canaries:
            canaries.require_windows(self.sequences_per_epoch, seq_len)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the windows at these positions of the task, in this order."""
        windows = np.stack([self._window(position) for position in positions])
        if self.canaries:
            self.canaries.insert(windows, positions, self.sequences_per_epoch)
        return as_batch(windows)

    def corrupted(self, batch: Batch, positions: Sequence[int], step: int) -> Batch:
        """Return the batch with what is masked in it at this step replaced by MASK_ID; its targets stay.

        With `masking.loss_weight` the inputs are the rows as they are and behind them the masked ones, [2B, T]; labels
        and n_tokens stay those of the B rows. What a teacher says of these is with them as a label.
        """
        if self.teacher:
            said = self.teacher.probabilities(batch.inputs["tokens"])
            batch = replace(batch, labels=batch.labels | {TEACHER: said})
        if self.masks is None or not (share := self.masks.share(step)):
            return batch
        tokens, targets = batch.inputs["tokens"], batch.inputs["targets"]
        masked = [self._masked(self.masks, position, share) for position in positions]
        corrupted = tokens.masked_fill(torch.from_numpy(np.stack(masked)), MASK_ID)
        if self.masks.config.loss_weight:
            corrupted, targets = torch.cat([tokens, corrupted]), torch.cat([targets, targets])
        return replace(batch, inputs=batch.inputs | {"tokens": corrupted, "targets": targets})

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """Return the mean cross-entropy in nats of logits [B, T, V], or of the nats that they gave in chunks [B, T].

        Of rows that are there as they are and masked: of the former, plus `masking.loss_weight` x that of the latter.
        """
        return self.losses(output, batch).total, None

    def losses(self, output: Tensor, batch: Batch) -> Losses:
        """Return the loss on the rows as they are, and with it that on masked ones and what a teacher adds."""
        targets, extra = batch.labels["targets"], dict[str, Tensor]()
        if self.masks is None or len(output) == len(targets):
            own = cross_entropy(output, targets)
        else:
            nats = cross_entropy(output, targets.repeat(2, 1), "none")
            own, extra[MASKED_LOSS] = nats.view(2, -1).sum(1) / (targets != IGNORE).sum()
        total = own
        if self.teacher:
            said = batch.labels[TEACHER]
            total, extra[DISTILLATION] = distilled(own, output[: len(targets)], said, self.teacher.config)
        if self.masks and MASKED_LOSS in extra:
            total = total + self.masks.config.loss_weight * extra[MASKED_LOSS]
        return Losses(total, own=own, extra=extra)

    def evaluation(self, context: TaskContext) -> "BitsPerByte":
        return BitsPerByte(context)

    def _window(self, position: int) -> np.ndarray:
        language, pieces = self._pieces(position, self.seq_len + 1)
        return np.concatenate([self.streams[language][piece.start : piece.stop] for piece in pieces])

    def _masked(self, masks: Masks, position: int, share: float) -> NDArray[np.bool_]:
        language, pieces = self._pieces(position, self.seq_len)
        return masks.of_window(language, pieces, share=share, key=f"masks/{self.seed}/{position}")

    def _pieces(self, position: int, n: int) -> tuple[int, list[range]]:
        """Return the language (its index) of the window at a position, and where its first n tokens stand there."""
        epoch, index = divmod(position, self.sequences_per_epoch)
        language, start = self._locate(epoch, index)
        chapters = self.chapters[language]
        return language, chapters.pieces(epoch, start, n) if chapters else [range(start, start + n)]

    def _locate(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the language (its index) of an epoch's window, and the window's first token in its order."""
        window = keyed_permutation(f"lm/{self.seed}/{epoch}", self.sequences_per_epoch)[index]
        language = int(np.searchsorted(self.first_window, window, side="right")) - 1
        stream = self.streams[language]
        slack = len(stream) - 1 - self.n_windows[language] * self.seq_len
        offset = int(keyed_bits(f"lm/{self.seed}/{epoch}/{language}", 1)[0] % np.uint64(slack + 1))
        return language, int(offset + (window - self.first_window[language]) * self.seq_len)


class BitsPerByte:
    """Measures the cross-entropy of every language in every validation split, in bits per UTF-8 byte.

    Where a split's curves are wanted, also that of a fixed part of the training text: a point of curve lm/<language>
    has both, in nats per token. There are curves lm/<language>/<stratum> besides, of the same forward pass, and
    lm/<language>/<split> with the other validation split. The windows are the same at every evaluation. Those of all
    splits and languages fill batches together, since many languages have few windows each.
    """

    def __init__(self, context: TaskContext) -> None:
        self.curves_of, self.languages, strata = context.curves_of, context.token_set.languages, context.strata
        self.groups = ("", *STRATA) if strata else ("",)
        parts = {}
        for language in self.languages:
            lexicon = strata.lexicon(language) if strata else None  # large: one at a time
            for split, tier in context.splits.items():
                windows = _windows(context, tier, language, lexicon)
                part = PartWindows.of(windows, context.token_set.byte_lengths, _by_stratum)
                if part.n_tokens[0]:
                    parts[split, language] = part
        self.sums = NatsByPart(context, parts, _nats)

    def __call__(self, model: Model) -> Findings:
        """Return the bits per byte, and the nats per token as scores."""
        found = Findings(curves_of=self.curves_of)
        for split, language, sums in self.sums(model, LM):
            curve, metric = f"{LM}/{language}", metrics.bits_per_byte(split, language)
            scores = found.scores.setdefault(split, {})
            for stratum, nats, n_tokens, n_bytes in zip(self.groups, *sums, strict=True):
                if n_tokens:
                    scores[f"{curve}/{stratum}" if stratum else curve] = Score(nats / n_tokens)
                    name = metrics.of_stratum(metric, stratum) if stratum else metric
                    found.metrics[name] = bits_per_byte(nats, n_bytes)
        self._add_other_split(found.scores)
        return found

    def _add_other_split(self, scores: dict[str, dict[str, Score]]) -> None:
        """Add the curves of the validation split that is not `curves_of`."""
        of_curves, train = scores.get(self.curves_of or "", {}), scores.get(metrics.TRAIN_SUBSET, {})
        for other in set(VALIDATION_TIERS) - {self.curves_of} if of_curves else ():
            for curve in [f"{LM}/{language}" for language in self.languages]:
                if curve in train and curve in scores.get(other, {}):
                    name = f"{curve}/{other}"
                    of_curves[name], train[name] = scores[other][curve], train[curve]


def _windows(context: TaskContext, tier: str, language: str, lexicon: Lexicon | None) -> Batch:
    """Return the windows of a part.

    Where strata are told apart, with the label strata, bool [B, T, strata]: of which each target is; of none that has
    fewer than FEWEST_WORDS.
    """
    stream = context.token_set.stream(tier, language)
    max_windows = context.evaluation.windows(len(context.token_set.languages))
    batch = evaluation_windows(stream, context.seq_len, max_windows)
    if context.strata is None or lexicon is None or not len(batch.labels["targets"]):
        return batch
    numbered = replace(stream, tokens=np.arange(len(stream.tokens), dtype=np.int32))
    places = evaluation_windows(numbered, context.seq_len, max_windows).labels["targets"].numpy()
    verses = np.unique(np.searchsorted(stream.starts, places[places >= 0], side="right") - 1)
    labelled = context.strata.label(tier, language, lexicon, verses[verses >= 0])
    words = np.where(places >= 0, labelled.words[places], -1)
    of_targets = labelled.strata[words]
    for inside in np.moveaxis(of_targets, -1, 0):
        inside &= len(np.unique(words[inside])) >= FEWEST_WORDS
    batch.labels["strata"] = torch.from_numpy(of_targets)
    return batch


def _nats(output: Tensor, windows: Batch) -> Tensor:
    return _by_stratum(target_nats(output, windows), windows)


def _by_stratum(values: Tensor, windows: Batch) -> Tensor:
    """Return the sums over all targets of each window, and over those of each stratum."""
    sums = values.sum(1, keepdim=True)
    if "strata" not in windows.labels:
        return sums
    return torch.cat([sums, (values[..., None] * windows.labels["strata"]).sum(1)], 1)


def cross_entropy(output: Tensor, targets: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
    """Return the cross-entropy in nats of logits [B, T, V] for targets [B, T], those of IGNORE left out, in fp32.

    none: of each target, [B * T], 0 for those of IGNORE. The output may be these nats [B, T] already: the model makes
    them where its logits are alive a chunk at a time.
    """
    if output.dim() == targets.dim():
        nats = output.flatten()
        return nats if reduction == "none" else nats.sum() / ((targets != IGNORE).sum() if reduction == "mean" else 1)
    return F.cross_entropy(output.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction=reduction)


def target_nats(output: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats of each target, fp64 [B, T], 0 for those of IGNORE; see cross_entropy."""
    targets = batch.labels["targets"]
    return cross_entropy(output, targets, "none").view(targets.shape).double()


def evaluation_windows(stream: Stream, seq_len: int, max_windows: int) -> Batch:
    """Return windows that cover a stream from its first token on, every target once; the last one is padded.

    There are at most max_windows of them, evenly spaced; 0: all. Padding has target IGNORE.
    """
    starts = window_starts(len(stream.tokens), seq_len, max_windows)
    windows = np.full((len(starts), seq_len + 1), IGNORE, dtype=np.int64)
    for row, start in enumerate(starts):
        piece = stream.tokens[start : start + seq_len + 1]
        windows[row, : len(piece)] = piece
    batch = as_batch(windows)
    batch.inputs["tokens"].clamp_(min=0)
    return batch


def window_starts(n_tokens: int, seq_len: int, max_windows: int) -> list[int]:
    """Return where the windows of evaluation_windows begin in a text."""
    n = -(-max(0, n_tokens - 1) // seq_len)
    return [window * seq_len for window in evenly_spaced(n, max_windows or n)]


def evenly_spaced(n: int, at_most: int) -> list[int]:
    """Return evenly spaced numbers below n, the first and the last among them, `at_most` in all; of one the middle."""
    if at_most == 1 < n:
        return [n // 2]
    return [int(row) for row in np.linspace(0, n - 1, min(n, at_most)).round()]


def as_batch(windows: np.ndarray) -> Batch:
    """Return the tokens and next-token targets, int64 [B, T], of windows [B, T+1]; they share no memory.

    The model is given the targets too, for a run that computes its loss in chunks.
    """
    ids = torch.from_numpy(windows.astype(np.int64))
    tokens, targets = ids[:, :-1].clone(), ids[:, 1:].clone()
    return Batch({"tokens": tokens, "targets": targets}, {"targets": targets}, tokens.numel())
