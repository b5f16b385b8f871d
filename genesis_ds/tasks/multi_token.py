"""Multi-token prediction: the tokens after the next one, from the same hidden states (arXiv 2404.19737).

Its windows are cut as those of language modelling, in an order of their own, without masks and canaries.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds import metrics
from genesis_ds.analysis.skip_bigrams import SkipBigrams
from genesis_ds.config import VerseTasksConfig
from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.errors import Unavailable
from genesis_ds.model.linear import Linear
from genesis_ds.model.multitask import TokenHead
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch, Findings, Model, Score, Task, TaskContext
from genesis_ds.tasks.bits_by_part import NatsByPart, PartWindows, bits_per_byte
from genesis_ds.tasks.lm import LanguageModelling, cross_entropy, evaluation_windows, target_nats

NEXT = 2
"""The first offset that the task predicts; language modelling has the one before."""


class OffsetsHead(TokenHead):
    """For each offset x + SiLU(W x) of the hidden states x (Medusa's head, arXiv 2401.10774).

    The decoder's own output layer reads it, as in arXiv 2404.19737, whose heads are whole blocks.
    """

    def __init__(self, dim: int, n_offsets: int) -> None:
        super().__init__()
        self.offsets = nn.ModuleList(Linear(dim, dim, gain=None) for _ in range(n_offsets))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, T, D] -> those of the first offset, then of the second and so on, [B, offsets * T, D]."""
        return torch.cat([hidden + F.silu(offset(hidden)) for offset in self.offsets], dim=1)


class MultiToken(Task):
    """The task of the tokens at t + 2 to t + `verse_tasks.tokens_ahead`, within the window that t is in."""

    name = "multi_token"
    sequences_per_epoch: int

    @classmethod
    def build(cls, context: TaskContext) -> "MultiToken":
        furthest = context.options.tokens_ahead
        if furthest > context.seq_len // 2:
            raise Unavailable(
                f"verse_tasks.tokens_ahead {furthest} is more than half of batch.seq_len {context.seq_len}: most of "
                "what it predicts is beyond the window; lower the one or raise the other"
            )
        seed = int(keyed_bits(f"{cls.name}/{context.seed}", 1)[0])  # not the order of language modelling
        windows = LanguageModelling(context.token_set, context.seq_len, seed, shuffle_chapters=context.shuffle_chapters)
        return cls(windows, furthest)

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module:
        return OffsetsHead(dim, options.tokens_ahead - NEXT + 1)

    def __init__(self, windows: LanguageModelling, furthest: int) -> None:
        self.windows, self.offsets = windows, range(NEXT, furthest + 1)
        self.sequences_per_epoch = windows.sequences_per_epoch

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the windows at these positions of the task. targets: int64 [B, offsets * T], see `ahead`."""
        return ahead(self.windows.batch(positions), self.offsets)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """Return the mean cross-entropy in nats of logits [B, offsets * T, V], or of the nats that they gave."""
        return cross_entropy(output, batch.labels["targets"]), None

    def evaluation(self, context: TaskContext) -> "BitsAhead":
        return BitsAhead(context, self.offsets)


def ahead(windows: Batch, offsets: Sequence[int]) -> Batch:
    """Return windows of language modelling with the targets of these offsets, one offset after the other.

    A target beyond the end of its window is IGNORE.
    """
    targets = windows.labels["targets"]
    shifted = [F.pad(targets[:, offset - 1 :], (0, offset - 1), value=IGNORE) for offset in offsets]
    wanted = {"targets": torch.cat(shifted, dim=1)}
    return Batch(windows.inputs | wanted, windows.labels | wanted, windows.n_tokens)


class BitsAhead:
    """Measures the cross-entropy of every offset in bits per UTF-8 byte, by language and validation split.

    Beside it stands what counts of the training text give, of how often a token stands at this offset from another.
    """

    def __init__(self, context: TaskContext, offsets: Sequence[int]) -> None:
        self.offsets, self.curves_of, token_set = offsets, context.curves_of, context.token_set
        most, lengths = context.evaluation.windows(len(token_set.languages)), token_set.byte_lengths
        parts: dict[tuple[str, str], PartWindows] = {}
        self.by_bigrams: dict[tuple[str, str], list[float]] = {}
        """Split and language -> the nats at each offset that counts of the training text give."""
        for language in token_set.languages:
            training = token_set.stream("train", language).tokens
            tables = [SkipBigrams(training, offset, len(lengths)) for offset in offsets]
            for split, tier in context.splits.items():
                windows = ahead(evaluation_windows(token_set.stream(tier, language), context.seq_len, most), offsets)
                part = PartWindows.of(windows, lengths, self._by_offset)
                if part.n_bytes.all():
                    parts[split, language] = part
                    of_counts = self._by_offset(_nats_by_counts(tables, windows), windows)
                    self.by_bigrams[split, language] = of_counts.sum(0).tolist()
        self.sums = NatsByPart(context, parts, self._nats)

    def __call__(self, model: Model) -> Findings:
        """Return the bits per byte of every offset, and the nats per token of all as scores."""
        found = Findings(curves_of=self.curves_of)
        for split, language, sums in self.sums(model, MultiToken.name):
            score = Score(sum(sums.nats) / sum(sums.n_tokens))
            found.scores.setdefault(split, {})[f"{MultiToken.name}/{language}"] = score
            by_bigrams = self.by_bigrams[split, language]
            for offset, nats, of_counts, n_bytes in zip(self.offsets, sums.nats, by_bigrams, sums.n_bytes, strict=True):
                name = metrics.judged(split, MultiToken.name, language, f"ahead_{offset}_{metrics.BITS_PER_BYTE}")
                found.metrics[name] = bits_per_byte(nats, n_bytes)
                found.metrics[metrics.by_surface(name, metrics.BY_BIGRAMS)] = bits_per_byte(of_counts, n_bytes)
        return found

    def _nats(self, output: Tensor, windows: Batch) -> Tensor:
        return self._by_offset(target_nats(output, windows), windows)

    def _by_offset(self, values: Tensor, windows: Batch) -> Tensor:
        sums: Tensor = values.unflatten(1, (len(self.offsets), -1)).sum(-1)
        return sums


def _nats_by_counts(tables: Sequence[SkipBigrams], windows: Batch) -> Tensor:
    """Return the nats that tables, one for each offset, give the targets, [B, offsets * T], 0 for those of IGNORE."""
    tokens, targets = windows.inputs["tokens"].numpy(), windows.labels["targets"]
    of_offsets = zip(tables, targets.clamp(min=0).chunk(len(tables), dim=1), strict=True)
    nats = [torch.from_numpy(table.nats(tokens, ids.numpy())) for table, ids in of_offsets]
    return torch.cat(nats, dim=1) * (targets != IGNORE)
