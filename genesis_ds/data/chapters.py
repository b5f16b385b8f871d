"""A stream whose chapters stand in another order in every epoch: nothing is stored, and every token keeps its place in
its chapter."""

import numpy as np
from numpy.typing import NDArray

from genesis_ds.data.keyed_random import keyed_bits
from genesis_ds.data.token_set import Stream


class ShuffledChapters:
    """The chapters of one stream in the order of an epoch, a pure function of the key and the epoch."""

    def __init__(self, stream: Stream, key: str) -> None:
        """key: names the seed and the language."""
        chapters = stream.verse_ids // 1000
        opens = np.flatnonzero(np.diff(chapters, prepend=-1))
        self.key, self.begins = key, stream.starts[opens] - 1  # each begins with its bos
        self.lengths = np.diff(self.begins, append=len(stream.tokens))
        self._epoch, self._of_epoch = -1, (self.begins, self.begins)

    def pieces(self, epoch: int, start: int, n: int) -> list[range]:
        """Return where the n tokens from `start` on, in the order of the epoch, stand in the stream itself."""
        order, ends = self._order(epoch)
        found, end = [], start + n
        for place in range(int(np.searchsorted(ends, start, side="right")), len(order)):
            if start >= end:
                break
            shift = int(self.begins[order[place]] + self.lengths[order[place]] - ends[place])
            stop = min(end, int(ends[place]))
            found.append(range(start + shift, stop + shift))
            start = stop
        return found

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the chapters in the order of an epoch, and where each ends then; the last answer is remembered."""
        if epoch != self._epoch:
            order = np.argsort(keyed_bits(f"{self.key}/{epoch}", len(self.begins)), kind="stable")
            self._epoch, self._of_epoch = epoch, (order, np.cumsum(self.lengths[order]))
        return self._of_epoch
