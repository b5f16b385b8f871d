"""Lexicons: what the whole text of a language says of its words, kept beside its tokens."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.words import WORD
from genesis_ds.disk import replacing, warn

FORMAT = 1
"""Of a file; another one where a rule of this module has changed."""
RUN = 5
"""Words of a run that is looked for in training."""
RARELY = 0.1
"""The most that the lower-case form of a name has of the occurrences of both."""
END = "\n"
"""What stands for the end of a verse."""
_ELEMENT = re.compile(rf"{WORD.pattern}|[^\s,'\u2019-]")
"""A word, or what ends a clause, so that a capital after it says nothing."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplication by it loses nothing."""
SEPARATOR = "\n"
"""What stands between the elements in a file, where END is an empty one: no other holds white space."""


@dataclass(frozen=True)
class Lexicon:
    """What a language's whole text says of its words."""

    number: dict[str, int]
    """Word, or another element -> its number."""
    trained: NDArray[np.uint64]
    """Ascending: the runs of RUN words that training has, by hash."""
    repeated: NDArray[np.bool_]
    """Whether it has each twice or more."""
    names: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Lexicon | None":
        """Return what `write` has left; None where there is nothing, or, with a warning, nothing whole."""
        try:
            with np.load(path) as stored:
                if int(stored["format"]) != FORMAT:
                    return None
                elements = stored["elements"].tobytes().decode().split(SEPARATOR)
                names = frozenset(elements[number] for number in stored["names"].tolist())
                number = {element or END: place for place, element in enumerate(elements)}
                return cls(number, stored["trained"], stored["repeated"], names)
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, EOFError, BadZipFile) as error:
            warn(f"{path}: damaged ({error}); the text is read again")
            return None

    @staticmethod
    def is_whole(path: Path) -> bool:
        """Return whether `read` would find one, at a tenth of its cost."""
        try:
            with np.load(path) as stored:
                return int(stored["format"]) == FORMAT and stored.zip.testzip() is None
        except (OSError, ValueError, LookupError, EOFError, BadZipFile):
            return False

    def write(self, path: Path) -> None:
        """Put it into a file, whole or not at all. Raises NotWritten."""
        elements = SEPARATOR.join("" if element == END else element for element in self.number)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                format=FORMAT,
                elements=np.frombuffer(elements.encode(), np.uint8),
                trained=self.trained,
                repeated=self.repeated,
                names=np.array(sorted(self.number[name] for name in self.names), np.int64),
            )

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str]], has_names: bool) -> "Lexicon":
        """Return that of verses, by tier. has_names: whether a capital is the mark of a name."""
        number: dict[str, int] = {}
        by_tier = {}
        for tier, verses in texts.items():
            elements = (element for verse in verses for element in [*_ELEMENT.findall(verse), END])
            by_tier[tier] = np.fromiter((number.setdefault(each, len(number)) for each in elements), np.int64)
        is_word = np.array([WORD.match(element) is not None for element in number], bool)
        end = number.get(END, -1)
        train = by_tier["train"]
        trained, counts = np.unique(_runs(train[is_word[train] | (train == end)], end), return_counts=True)
        names = _names(number, is_word, list(by_tier.values())) if has_names else frozenset()
        return cls(number, trained, counts > 1, names)

    def copied(self, words: Sequence[str], is_trained: bool) -> NDArray[np.bool_]:
        """Return which words of a verse stand in a run that training has, of a verse of training itself once more."""
        found = np.zeros(len(words), bool)
        runs = _runs(np.array([self.number[word] for word in words], np.int64), end=-1)
        if len(runs) and len(self.trained):
            place = np.searchsorted(self.trained, runs).clip(max=len(self.trained) - 1)
            known = (self.trained[place] == runs) & (self.repeated[place] | (not is_trained))
            for offset in range(RUN):
                found[offset : offset + len(runs)] |= known
        return found


def _runs(words: NDArray[np.int64], end: int) -> NDArray[np.uint64]:
    """Return a hash of each run of RUN words that does not hold the end of a verse; of any number, without one."""
    n = max(0, len(words) - RUN + 1)
    hashes, whole = np.zeros(n, np.uint64), np.ones(n, bool)
    for offset in range(RUN):
        of_run = words[offset : offset + n]
        hashes = (hashes ^ of_run.astype(np.uint64)) * _PRIME
        hashes ^= hashes >> np.uint64(29)
        whole &= of_run != end
    return hashes[whole]


def _names(number: Mapping[str, int], is_word: NDArray[np.bool_], texts: Sequence[NDArray[np.int64]]) -> frozenset[str]:
    """Return the words with a capital inside a clause, and hardly ever a small letter."""
    everywhere, inside = np.zeros((2, len(number)), np.int64)
    for elements in texts:
        follows_word = np.append(False, is_word[elements[:-1]])
        everywhere += np.bincount(elements, minlength=len(number))
        inside += np.bincount(elements[follows_word[: len(elements)]], minlength=len(number))
    found = set()
    for word, own in number.items():
        if is_word[own] and word[0].isupper() and len(word) > 1 and inside[own]:
            small = everywhere[number[word.lower()]] if word.lower() in number else 0
            if small <= RARELY * (small + inside[own]):
                found.add(word)
    return frozenset(found)
