"""The text of a sample as its tokens come in."""

import codecs
from collections.abc import Sequence


class TextSoFar:
    """A text that is given out in whole characters, and never past a stop string or into the beginning of one."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop, self.text, self.is_stopped = stop, "", False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._n_given = 0

    @property
    def incomplete(self) -> bytes:
        """The bytes of a character of which more are to come."""
        return self._decoder.getstate()[0]

    def add(self, piece: bytes) -> str:
        """Take up the bytes of a token, which are UTF-8 after those before; return what can be shown now."""
        self.text += self._decoder.decode(piece)
        found = [place for stop in self.stop if (place := self.text.find(stop, self._n_given)) >= 0]
        if found:
            self.text, self.is_stopped = self.text[: min(found)], True
        return self._give(len(self.text) if found else len(self.text) - self._n_held_back())

    def end(self) -> str:
        """Return what is left to show when no token follows. A character that is incomplete is left out."""
        return self._give(len(self.text))

    def _give(self, end: int) -> str:
        given, self._n_given = self.text[self._n_given : end], end
        return given

    def _n_held_back(self) -> int:
        """Return the characters at the end of the text with which a stop string may have begun."""
        lengths = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return min(max(lengths, default=0), len(self.text) - self._n_given)
