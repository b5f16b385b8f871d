"""Language modelling on packed windows: no padding, no state, any number of ranks.

An epoch is one pass over the training tokens. In epoch e every language's stream is cut into windows of T+1 tokens
at stride T from an offset keyed by (seed, e), and all windows of all languages are visited in a permutation keyed by
(seed, e). So the window at a position of the task is a pure function of (seed, position).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genesis_ds.data.keyed_random import keyed_bits, keyed_permutation
from genesis_ds.data.token_set import Stream, TokenSet
from genesis_ds.errors import UserError
from genesis_ds.model.multitask import LM
from genesis_ds.model.transformer import IGNORE
from genesis_ds.tasks.base import Batch


class LanguageModelling:
    """The training windows of a token set."""

    name = LM
    kinds = ()

    def __init__(self, token_set: TokenSet, seq_len: int, seed: int) -> None:
        """Raises UserError when no language has a whole window of training text."""
        self.seq_len, self.seed = seq_len, seed
        self.streams = [token_set.stream("train", language).tokens for language in token_set.languages]
        self.n_windows = np.array([max(0, len(stream) - 1) // seq_len for stream in self.streams])
        self.first_window = np.cumsum(self.n_windows) - self.n_windows
        self.sequences_per_epoch = int(self.n_windows.sum())
        """Windows in one pass over the training tokens."""
        if not self.sequences_per_epoch:
            longest = max(map(len, self.streams))
            raise UserError(f"batch.seq_len: {seq_len} is longer than the training text; give at most {longest - 1}")

    def batch(self, positions: Sequence[int]) -> Batch:
        """The windows at these positions of the task, in this order."""
        windows = np.stack([self._window(*divmod(position, self.sequences_per_epoch)) for position in positions])
        return as_batch(windows)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, None]:
        """The cross-entropy, which the model computes itself where it has targets."""
        return output, None

    def _window(self, epoch: int, index: int) -> np.ndarray:
        window = keyed_permutation(f"lm/{self.seed}/{epoch}", self.sequences_per_epoch)[index]
        language = int(np.searchsorted(self.first_window, window, side="right")) - 1
        stream = self.streams[language]
        slack = len(stream) - 1 - self.n_windows[language] * self.seq_len
        offset = int(keyed_bits(f"lm/{self.seed}/{epoch}/{language}", 1)[0] % np.uint64(slack + 1))
        start = offset + (window - self.first_window[language]) * self.seq_len
        return stream[start : start + self.seq_len + 1]


def evaluation_windows(stream: Stream, seq_len: int, max_windows: int) -> Batch:
    """Windows that cover a stream from its first token on, every target once; the last one is padded.

    At most max_windows of them, evenly spaced; 0: all. Padding has target IGNORE.
    """
    n = -(-max(0, len(stream.tokens) - 1) // seq_len)
    chosen = range(n)
    if max_windows and n > max_windows:
        chosen = np.linspace(0, n - 1, max_windows).round().astype(int).tolist()
    windows = np.full((len(chosen), seq_len + 1), IGNORE, dtype=np.int64)
    for row, window in enumerate(chosen):
        piece = stream.tokens[window * seq_len : (window + 1) * seq_len + 1]
        windows[row, : len(piece)] = piece
    batch = as_batch(windows)
    batch.inputs["tokens"].clamp_(min=0)
    return batch


def as_batch(windows: np.ndarray) -> Batch:
    """Windows [B, T+1] -> tokens and next-token targets, int64 [B, T]."""
    ids = torch.from_numpy(windows.astype(np.int64))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return Batch({"tokens": tokens, "targets": targets}, n_tokens=tokens.numel())
