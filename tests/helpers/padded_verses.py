"""Language modelling as a simple loop has it: one verse a row, the rest of the row padding."""

import dataclasses

import numpy as np

from genesis_ds.data.token_set import TokenSet
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.model.output import IGNORE
from genesis_ds.tasks.base import Batch
from genesis_ds.tasks.lm import LanguageModelling, as_batch


class PaddedVerses(LanguageModelling):
    """The training verses that a row can hold; padding is no target."""

    def __init__(self, token_set: TokenSet, seq_len: int, seed: int) -> None:
        super().__init__(token_set, seq_len, seed)
        self.verses = VerseTable(token_set, ["train"], seq_len)

    def batch(self, positions) -> Batch:
        rows = np.full((len(positions), self.seq_len + 1), IGNORE)
        for row, position in enumerate(positions):
            ids = self.verses.tokens(position * 7919 % len(self.verses))
            rows[row, : len(ids)] = ids
        batch = as_batch(rows)
        batch.inputs["tokens"].clamp_(min=0)
        return dataclasses.replace(batch, n_tokens=int((rows != IGNORE).sum()))
