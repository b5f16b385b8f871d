"""The verse table: parallel translations keyed on verse ids, their cross-references and where they came from."""

import enum
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_ds.corpus.references import MAX_VERSE, verse_id
from genesis_ds.errors import UserError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


class Flag(enum.IntFlag):
    """The marks of a row that is special, stored as uint8."""

    MISSING = 1
    """The translation has no text for this id; the text is ""."""
    MERGED = 2
    """The text of this id stands in the row before; the text here is ""."""
    TITLE = 4
    """The text begins with a title that other translations may not have (psalms)."""


Scalar = TypeVar("Scalar", bound=np.generic)


def _frozen(values: ArrayLike, dtype: type[Scalar]) -> NDArray[Scalar]:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Translation:
    """One translation: N rows, ascending ids.

    name: unique in the corpus, safe as a file name. language: BCP-47. verse_ids: (N,) int32, strictly ascending.
    texts: N single lines. flags: (N,) uint8 of `Flag`; rows without text that are not merged become missing.
    Raises UserError when one of these does not hold.
    """

    name: str
    language: str
    verse_ids: NDArray[np.int32]
    texts: list[str]
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        ids = _frozen(self.verse_ids, np.int32)
        flags = np.array(self.flags if len(self.flags) else np.zeros(len(ids)), dtype=np.uint8)
        if not len(ids) == len(self.texts) == len(flags):
            raise UserError(f"translation {self.name}: {len(ids)} ids, {len(self.texts)} texts, {len(flags)} flags")
        if (np.diff(ids) <= 0).any():
            raise UserError(f"translation {self.name}: verse ids must be strictly ascending")
        if len(ids) and not (verse_id(1, 1, 0) <= ids[0] and ids[-1] <= verse_id(66, 22, MAX_VERSE)):
            raise UserError(f"translation {self.name}: a verse id lies outside the 66 books")
        if any("\t" in text or "\n" in text or "\r" in text for text in self.texts):
            raise UserError(f"translation {self.name}: a text holds a tab or a line break; clean it first")
        check_name(self.name)
        check_language(self.language)
        empty = np.fromiter((not text for text in self.texts), bool, len(self.texts))
        flags[empty & ((flags & Flag.MERGED) == 0)] |= np.uint8(Flag.MISSING)
        object.__setattr__(self, "verse_ids", ids)
        object.__setattr__(self, "flags", _frozen(flags, np.uint8))

    @classmethod
    def from_rows(cls, name: str, language: str, rows: Mapping[int, tuple[str, int]]) -> "Translation":
        """Make a translation of rows {verse_id: (text, flags)} in any order."""
        ids = sorted(rows)
        texts = [rows[i][0] for i in ids]
        flags = np.array([rows[i][1] for i in ids], np.uint8)
        return cls(name, language, verse_ids=np.array(ids, np.int32), texts=texts, flags=flags)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N,) bool: rows that hold text."""
        return np.asarray((self.flags & (Flag.MISSING | Flag.MERGED)) == 0)


@dataclass(frozen=True, eq=False)
class CrossReferences:
    """M directed links: from_ids, to_ids, weights (M,) int32 (votes; 1 where unknown); sources M names."""

    from_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    to_ids: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    weights: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("from_ids", "to_ids", "weights"):
            object.__setattr__(self, name, _frozen(getattr(self, name), np.int32))
        if not len(self.from_ids) == len(self.to_ids) == len(self.weights) == len(self.sources):
            raise UserError("cross-references: from_ids, to_ids, weights and sources differ in length")

    def __len__(self) -> int:
        return len(self.sources)

    def __add__(self, other: "CrossReferences") -> "CrossReferences":
        """Return the links of both, one after the other."""
        return CrossReferences(
            np.concatenate([self.from_ids, other.from_ids]),
            np.concatenate([self.to_ids, other.to_ids]),
            np.concatenate([self.weights, other.weights]),
            [*self.sources, *other.sources],
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the links and their sources."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the bytes that a fingerprint is taken of."""
        columns = b"".join(array.astype("<i4").tobytes() for array in (self.from_ids, self.to_ids, self.weights))
        return columns + "\n".join(self.sources).encode()

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]], source: str, weight: int = 1) -> "CrossReferences":
        """Make links of the distinct pairs (from_id, to_id) of one source, in ascending order."""
        table = np.array(sorted(set(pairs)), np.int32).reshape(-1, 2)
        return cls(table[:, 0], table[:, 1], np.full(len(table), weight), [source] * len(table))


@dataclass(frozen=True)
class Source:
    """Where one translation came from. sha256 is that of the file as it was read; notices are for the user."""

    name: str
    language: str
    licence: str
    sha256: str
    notices: tuple[str, ...] = ()
    cleaner_version: int = 0


@dataclass(frozen=True, eq=False)
class Corpus:
    """Parallel translations, their cross-references, their sources, and the notices a user should read.

    Raises UserError without a single verse or when two translations share a name.
    """

    translations: tuple[Translation, ...]
    cross_references: CrossReferences = field(default_factory=CrossReferences)
    sources: tuple[Source, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [translation.name for translation in self.translations]
        if len(set(names)) < len(names):
            raise UserError(f"two translations share a name: {', '.join(sorted(names))}; rename one")
        if not any(translation.present.any() for translation in self.translations):
            raise UserError("the corpus holds no verse: import or fetch a translation that has text")

    @property
    def languages(self) -> list[str]:
        """The languages, in order and each once."""
        return list(dict.fromkeys(translation.language for translation in self.translations))

    def translation(self, key: str) -> Translation:
        """Return the translation of that name, or the first of that language. Raises UserError for neither."""
        for attribute in ("name", "language"):
            for translation in self.translations:
                if getattr(translation, attribute) == key:
                    return translation
        known = dict.fromkeys([*self.languages, *(translation.name for translation in self.translations)])
        raise UserError(f"the corpus has no language or translation '{key}': {nearest(key, known)}")

    @functools.cached_property
    def verse_ids(self) -> NDArray[np.int32]:
        """The ids of all translations together, ascending (int32)."""
        return functools.reduce(np.union1d, [t.verse_ids for t in self.translations]).astype(np.int32)

    @property
    def has_verses(self) -> bool:
        """False if every row is a chapter row (verse 0)."""
        return bool((self.verse_ids % 1000).any())

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the translations and cross-references; sources, notices and file times do not count."""
        digest = hashlib.sha256()
        for translation in self.translations:
            texts = "\n".join(translation.texts).encode()
            header = f"{translation.name}\t{translation.language}\t{len(translation)}\t{len(texts)}\n"
            digest.update(header.encode() + translation.verse_ids.astype("<i4").tobytes())
            digest.update(translation.flags.tobytes() + texts)
        digest.update(self.cross_references.to_bytes())
        return digest.hexdigest()


def check_name(name: str) -> None:
    """Raise UserError unless a translation's name is safe as a file name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"translation name '{name}': use letters, digits, '.', '_' and '-' only")


def check_language(language: str) -> None:
    """Raise UserError unless a language has the shape of a BCP-47 tag."""
    if not _LANGUAGE.fullmatch(language):
        raise UserError(f"language '{language}' is no BCP-47 tag: write it as 'en', 'pt-BR' or 'ko'")
