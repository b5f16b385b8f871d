"""Strata of a text: which words stand in a run that training has, and which are names, numerals or connectives.

The rules are those of docs/grokking.md, which also says how often they are right.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.words import WORD, word_pattern
from genesis_ds.data.token_set import KEPT_TIERS, Stream, TokenSet
from genesis_ds.data.word_spans import number_words
from genesis_ds.tokenizer import Tokenizer

STRATA = COPIED, NOVEL, NAME, NUMERAL, CONNECTIVE = ("copied", "novel", "name", "numeral", "connective")
RUN = 5
"""Words of a run that is looked for in training."""
RARELY = 0.1
"""The most that the lower-case form of a name has of the occurrences of both."""
SAMPLE = 100
"""Verses that show whether a script has capitals."""
NOUNS_ARE_CAPITALISED = ("de", "lb", "nds", "gsw")
NUMERALS = {
    "en": "two three four five six seven eight nine ten eleven twelve thirteen* fourteen* fifteen* sixteen* seventeen* "
    "eighteen* nineteen* twenty thirty forty fifty sixty seventy eighty ninety hundred* thousand* threescore fourscore "
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth twentieth thirtieth fortieth fiftieth",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince diecis* diecio* veinte "
    "veinti* treinta cuarenta cincuenta sesenta setenta ochenta noventa cien ciento mil millares doscient* trescient* "
    "cuatrocient* quinient* seiscient* setecient* ochocient* novecient* tercer tercero tercera cuarto cuarta quinto "
    "quinta sexto sexta séptimo séptima octavo octava noveno novena décimo décima",
}
"""Language -> its numerals, without those for one and second, which are mostly pronouns, articles and nouns."""
END = "\n"
"""What stands for the end of a verse."""
_ELEMENT = re.compile(rf"{WORD.pattern}|[^\s,'\u2019-]")
"""A word, or what ends a clause, so that a capital after it says nothing."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplication by it loses nothing."""


class Labelled(NamedTuple):
    """The strata of a stream's tokens."""

    words: NDArray[np.int64]
    """[N]: the word that each token is part of, -1: none, or one of a verse that was not looked at."""
    strata: NDArray[np.bool_]
    """[words + 1, len(STRATA)]: of which each word is; the last row, that of -1, is of none."""


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


class Strata:
    """Tells of which strata the words of a token set are."""

    def __init__(self, token_set: TokenSet, tokenizer: Tokenizer, connectives: Mapping[str, Sequence[str]]) -> None:
        """connectives: language -> its connectives, as in the configuration."""
        self.token_set, self.tokenizer = token_set, tokenizer
        self.patterns = {
            NUMERAL: {language: word_pattern(words.split()) for language, words in NUMERALS.items()},
            CONNECTIVE: {language: word_pattern(words) for language, words in connectives.items()},
        }

    def lexicon(self, language: str) -> Lexicon:
        """Return what the whole text of a language says of its words; it is read anew at every call."""
        streams = {tier: self.token_set.stream(tier, language) for tier in KEPT_TIERS}
        texts = {tier: self._texts(stream, np.arange(len(stream.starts))) for tier, stream in streams.items()}
        sample = "".join(texts["train"][:SAMPLE])
        has_case = sum(letter.lower() != letter.upper() for letter in sample) > len(sample) / 2
        return Lexicon.of(texts, has_case and language.split("-")[0] not in NOUNS_ARE_CAPITALISED)

    def label(self, tier: str, language: str, lexicon: Lexicon, verses: NDArray[np.int64]) -> Labelled:
        """Return the strata of a stream's tokens. verses: the numbers of those to look at, ascending."""
        stream = self.token_set.stream(tier, language)
        chosen = replace(stream, starts=stream.starts[verses], lengths=stream.lengths[verses])
        found = []
        for text in self._texts(stream, verses):
            words = list(WORD.finditer(text))
            copied = lexicon.copied([word.group() for word in words], is_trained=tier == "train")
            of_verse = {COPIED: copied, NOVEL: ~copied}
            for stratum, patterns in self.patterns.items():
                of_verse[stratum] = _inside(patterns.get(language), text, words)
            taken = of_verse[NUMERAL] | of_verse[CONNECTIVE]
            of_verse[NAME] = np.array([word.group() in lexicon.names for word in words], bool) & ~taken
            found.append(np.stack([of_verse[stratum] for stratum in STRATA], axis=1))
        none = np.zeros((1, len(STRATA)), bool)
        return Labelled(number_words(chosen, WORD, self.tokenizer), np.concatenate([*found, none]))

    def _texts(self, stream: Stream, verses: NDArray[np.int64]) -> list[str]:
        tokens, places = np.asarray(stream.tokens), zip(stream.starts[verses], stream.lengths[verses], strict=True)
        return [self.tokenizer.decode(tokens[start : start + length].tolist()) for start, length in places]


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


def _inside(pattern: re.Pattern[str] | None, text: str, words: Sequence[re.Match[str]]) -> NDArray[np.bool_]:
    """Return which words of a text lie in a match of the pattern; none without one."""
    starts = np.array([word.start() for word in words], np.int64)
    found = np.zeros(len(words), bool)
    for match in pattern.finditer(text) if pattern else ():
        found |= (starts >= match.start()) & (starts < match.end())
    return found
