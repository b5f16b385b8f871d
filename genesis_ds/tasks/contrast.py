"""The tasks on triplets of verses (anchor, positive, negative): their head and losses."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_ds.config import VerseTasksConfig
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.model.linear import Linear
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.verse_task import Pack, VerseTask


@dataclass(frozen=True)
class Contrast:
    """The loss by which anchors come closer to their positives than to negatives."""

    loss: Literal["margin", "in_batch"] = "margin"
    """margin: relu(margin - cos(anchor, positive) + cos(anchor, negative)). in_batch: cross-entropy of the positive
    among the positives and negatives of its language in the same pack (InfoNCE, arXiv 1807.03748)."""
    margin: float = 0.2
    temperature: float = 0.07

    @classmethod
    def of(cls, options: VerseTasksConfig) -> "Contrast":
        """Return the loss of a run's section verse_tasks."""
        return cls(options.contrast, options.margin, options.temperature)


class ProjectionHead(nn.Module):
    """An MLP that maps verses to unit vectors whose cosine means closeness, as in SimCLR (arXiv 2002.05709)."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(dim, dim, gain=None)
        self.output = Linear(dim, projection_dim, gain=None)

    def forward(self, verses: Tensor, examples: Tensor) -> Tensor:
        """Return fp32 unit vectors [m, k, P] for verses [n, D] and groups of k of them [m, k]."""
        projected = self.output(F.gelu(self.hidden(verses))).float()
        return F.normalize(projected, dim=-1)[examples]


class ContrastTask(VerseTask):
    """A task on triplets of verses: anchor, positive, negative. The model gives unit vectors [n, 3, P] for them."""

    def __init__(self, verses: VerseTable, seq_len: int, rows_per_pack: int, seed: int, *, contrast: Contrast) -> None:
        self.contrast = contrast
        super().__init__(verses, seq_len, rows_per_pack, seed)

    @classmethod
    def head(cls, dim: int, options: VerseTasksConfig) -> nn.Module:
        return ProjectionHead(dim, options.projection_dim)

    @abstractmethod
    def related(self, anchors: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the verses [n, m] (or [m]) are no negatives of the anchors [n], bool [n, m]."""

    def collate(self, packs: Sequence[Pack]) -> Batch:
        """Return the batch of these packs.

        in_batch adds the label rivals, bool [n, 2n]: which of all positives, then all negatives, an anchor is compared
        with: those of its pack that are of its positive's language and not related to it, and its own positive. Verses
        of other languages would be told apart by their language alone.
        """
        batch = super().collate(packs)
        if self.contrast.loss == "in_batch":
            anchors, positives, negatives = np.concatenate([packed.examples.verses for packed in packs]).T
            others, languages = np.concatenate([positives, negatives]), self.verses.languages
            compared = (languages[positives][:, None] == languages[others]) & ~self.related(anchors, others)
            pack = batch.labels["pack"]
            rivals = torch.from_numpy(compared) & (pack[:, None] == pack.repeat(2))
            batch.labels["rivals"] = rivals.fill_diagonal_(True)
        return batch

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of `contrast`, and which anchors are closer to their positive than to their negative."""
        anchors, positives, negatives = output.unbind(1)
        near, far = ((anchors * others).sum(-1) for others in (positives, negatives))
        if self.contrast.loss == "margin":
            losses = F.relu(self.contrast.margin - near + far)
        else:
            cosines = anchors @ torch.cat([positives, negatives]).T
            logits = (cosines / self.contrast.temperature).masked_fill(~batch.labels["rivals"], -torch.inf)
            losses = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
        return (batch.labels["weights"] * losses).sum(), near > far
