"""Strata of a text: which words stand in a run that training has, and which are names, numerals or connectives.

The rules are those of docs/grokking.md, which also says how often they are right.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_ds.corpus.words import WORD, word_pattern
from genesis_ds.data.lexicon import Lexicon
from genesis_ds.data.token_set import KEPT_TIERS, Stream, TokenSet
from genesis_ds.data.word_spans import number_words
from genesis_ds.disk import NotWritten, warn
from genesis_ds.tokenizer import Tokenizer

STRATA = COPIED, NOVEL, NAME, NUMERAL, CONNECTIVE = ("copied", "novel", "name", "numeral", "connective")
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


class Labelled(NamedTuple):
    """The strata of a stream's tokens."""

    words: NDArray[np.int64]
    """[N]: the word that each token is part of, -1: none, or one of a verse that was not looked at."""
    strata: NDArray[np.bool_]
    """[words + 1, len(STRATA)]: of which each word is; the last row, that of -1, is of none."""


class Strata:
    """Tells of which strata the words of a token set are."""

    def __init__(self, token_set: TokenSet, tokenizer: Tokenizer, connectives: Mapping[str, Sequence[str]]) -> None:
        """connectives: language -> its connectives, as in the configuration."""
        self.token_set, self.tokenizer = token_set, tokenizer
        self.patterns = {
            NUMERAL: {language: word_pattern(words.split()) for language, words in NUMERALS.items()},
            CONNECTIVE: {language: word_pattern(words) for language, words in connectives.items()},
        }

    def learn(self) -> None:
        """Read the whole text once, and leave a lexicon of each language beside the tokens for all who need it.

        Warns where that cannot be written: then every process reads the text at every start.
        """
        for language in self.token_set.languages:
            path = self._path(language)
            if not Lexicon.is_whole(path):
                try:
                    self._learnt(language).write(path)
                except NotWritten as error:
                    warn(f"{error}; every process of a run reads the whole text itself")
                    return

    def lexicon(self, language: str) -> Lexicon:
        """Return what the whole text of a language says of its words, read anew where it has not been learnt."""
        return Lexicon.read(self._path(language)) or self._learnt(language)

    def _path(self, language: str) -> Path:
        return self.token_set.directory / f"{language}.lexicon.npz"

    def _learnt(self, language: str) -> Lexicon:
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


def _inside(pattern: re.Pattern[str] | None, text: str, words: Sequence[re.Match[str]]) -> NDArray[np.bool_]:
    """Return which words of a text lie in a match of the pattern; none without one."""
    starts = np.array([word.start() for word in words], np.int64)
    found = np.zeros(len(words), bool)
    for match in pattern.finditer(text) if pattern else ():
        found |= (starts >= match.start()) & (starts < match.end())
    return found
