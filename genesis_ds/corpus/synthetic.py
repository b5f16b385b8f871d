"""A small parallel corpus in three or more invented languages, with known rules to learn.

Meaning. A verse is an event: a verb and four actors (subject, object, companion, witness) out of the 13 actors of
its chapter. The same id means the same in every language. Verse v (from 1) of a chapter with cast c names
``c[v]``, ``c[v + 1]``, ``c[v + 3]`` and ``c[v + 9]`` (indices modulo 13) in these four roles.

Rule of coherence. The object of verse v is the subject of verse v + 1. Because {0, 1, 3, 9} is a perfect difference
set modulo 13, any two verses of a chapter share exactly one actor, so a bag of words does not tell neighbours
from other pairs of the chapter: only the roles, that is the word order, do. In the same way ``swapped`` neighbours
(subject of the first = object of the second) differ from true ones by roles alone.

Rule of cross-references. Actors and verbs come in couples, number 2k and 2k + 1. A verse refers to the next verse, in
cyclic order of ids, among those of other books whose verb and object are the other halves of its own. So the two
need not share a word, and no likeness of words tells a reference from another pair of verses.

Languages. Word orders: qaa subject verb object companion witness; qab verb witness subject companion object; qac
(Georgian letters, three bytes each) object companion subject witness verb. Lexicons share no word. Where more are asked
for, qad has the order and letters of qaa with words of its own, qae those of qab, and so on.

Every draw is a blake2b hash of the seed and its purpose: the same on every platform, and a verse does not change
with the size of the corpus (its cross-references do).
"""

import hashlib
from bisect import bisect
from collections import defaultdict

from genesis_ds.corpus.cleaning import CLEANER_VERSION
from genesis_ds.corpus.references import CHAPTERS, verse_id
from genesis_ds.corpus.verses import Corpus, CrossReferences, Source, Translation
from genesis_ds.errors import UserError

LANGUAGES = ("qaa", "qab", "qac")
MOST_LANGUAGES = 520
"""qaa to qtz, the codes that ISO 639-2 leaves to everyone."""
N_ACTORS = 40
N_VERBS = 20
CAST = 13
ROLES = ("subject", "object", "companion", "witness")
_OFFSETS = (0, 1, 3, 9)
_ORDERS = {
    "qaa": ("subject", "verb", "object", "companion", "witness"),
    "qab": ("verb", "witness", "subject", "companion", "object"),
    "qac": ("object", "companion", "subject", "witness", "verb"),
}
_SYLLABLES = {
    "qaa": [c + v for c in "bdgklmnprst" for v in "aeiou"],
    "qab": [v + c for c in "fhjvwxyz" for v in "aeiou"],
    "qac": [c + v for c in "ბგდთლმნრსქ" for v in "აეიოუ"],
}
Event = dict[str, int]
"""{"verb": 0..N_VERBS - 1, and for each of `ROLES` an actor 0..N_ACTORS - 1}."""


def _draw(*key: object) -> int:
    digest = hashlib.blake2b(":".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def event(seed: int, identifier: int) -> Event:
    """Return the meaning of a verse id."""
    chapter, verse = divmod(identifier, 1000)
    cast = sorted(range(N_ACTORS), key=lambda actor: _draw(seed, "cast", chapter, actor))[:CAST]
    actors = {role: cast[(verse + offset) % CAST] for role, offset in zip(ROLES, _OFFSETS, strict=True)}
    return {"verb": _draw(seed, "verb", identifier) % N_VERBS, **actors}


def lexicon(seed: int, language: str) -> list[str]:
    """Return N_ACTORS actor words followed by N_VERBS verbs: distinct words of two or three syllables."""
    syllables = _SYLLABLES[_kind(language)]
    words: dict[str, None] = {}
    attempt = 0
    while len(words) < N_ACTORS + N_VERBS:
        length = 2 + _draw(seed, language, attempt) % 2
        words["".join(syllables[_draw(seed, language, attempt, i) % len(syllables)] for i in range(length))] = None
        attempt += 1
    return list(words)


def synthetic_corpus(
    seed: int = 0, chapters_per_book: int = 4, verses_per_chapter: int = 8, *, n_languages: int = len(LANGUAGES)
) -> Corpus:
    """Return the corpus of the module's docstring.

    It has 66 books of at most `chapters_per_book` chapters (no book gets more than it has) of `verses_per_chapter`
    verses, at most 13, since the roles repeat after that, in at most 520 languages.

    Raises UserError outside these bounds.
    """
    if chapters_per_book < 1 or not 1 <= verses_per_chapter <= CAST:
        raise UserError(f"a synthetic corpus has at least 1 chapter per book and 1 to {CAST} verses per chapter")
    if not 1 <= n_languages <= MOST_LANGUAGES:
        raise UserError(f"languages: {n_languages}; give 1 to {MOST_LANGUAGES}")
    ids = [
        verse_id(book, chapter, verse)
        for book, chapters in enumerate(CHAPTERS, 1)
        for chapter in range(1, min(chapters, chapters_per_book) + 1)
        for verse in range(1, verses_per_chapter + 1)
    ]
    events = {identifier: event(seed, identifier) for identifier in ids}
    translations, sources = [], []
    for language in _codes(n_languages):
        words = lexicon(seed, language)
        rows = {identifier: (_say(meaning, language, words), 0) for identifier, meaning in events.items()}
        translations.append(Translation.from_rows(language, language, rows))
        digest = hashlib.sha256("\n".join(text for text, _ in rows.values()).encode()).hexdigest()
        sources.append(Source(language, language, "CC0, generated", digest, cleaner_version=CLEANER_VERSION))
    links = CrossReferences.from_pairs(_links(events), "synthetic")
    return Corpus(tuple(translations), links, tuple(sources))


def _say(meaning: Event, language: str, words: list[str]) -> str:
    spoken = {role: words[meaning[role]] for role in ROLES} | {"verb": words[N_ACTORS + meaning["verb"]]}
    return " ".join(spoken[role] for role in _ORDERS[_kind(language)]) + "."


def _codes(n: int) -> list[str]:
    return [f"q{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(n)]


def _kind(language: str) -> str:
    """Return which of LANGUAGES it shares its order of words and its letters with."""
    return LANGUAGES[((ord(language[1]) - 97) * 26 + ord(language[2]) - 97) % len(LANGUAGES)]


def _links(events: dict[int, Event]) -> list[tuple[int, int]]:
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for identifier, meaning in events.items():
        groups[meaning["verb"], meaning["object"]].append(identifier)
    pairs = []
    for identifier, meaning in events.items():
        group = groups.get((other_half(meaning["verb"]), other_half(meaning["object"])), [])
        position = bisect(group, identifier)
        following = group[position:] + group[:position]
        target = next((other for other in following if other // 1_000_000 != identifier // 1_000_000), None)
        if target is not None:
            pairs.append((identifier, target))
    return pairs


def other_half(number: int) -> int:
    """Return the actor or verb that makes a couple with this one."""
    return number ^ 1
