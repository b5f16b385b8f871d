"""Verses and hidden states of which it is known what a measure must say."""

from typing import NamedTuple

import numpy as np

DIM, CHAPTERS, PER_CHAPTER = 48, 50, 4
VERSE_IDS = np.array(
    [
        1_000_000 * (1 + chapter // 5) + 1000 * (1 + chapter % 5) + verse
        for chapter in range(CHAPTERS)
        for verse in range(1, PER_CHAPTER + 1)
    ]
)
"""[200]: ten books of five chapters of four verses."""
N = len(VERSE_IDS)
CHAPTER = VERSE_IDS // 1000


class Languages(NamedTuple):
    """States [200, 48] of the same verses."""

    a: np.ndarray
    b: np.ndarray


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape or (N, DIM))


def of_each(groups, seed):
    """A direction for every group, [200, 48]."""
    names, group = np.unique(groups, return_inverse=True)
    return noise(seed, len(names), DIM)[group]


def related():
    """Verses whose translations share half of what they vary in, chapters a part of it."""
    shared = of_each(CHAPTER, 10) + noise(0)
    return Languages(shared + noise(1), shared + noise(2))


def shuffled_within_chapters():
    """The same, each translation of the second language in the place of the next one of its chapter."""
    a, b = related()
    return Languages(a, b.reshape(CHAPTERS, PER_CHAPTER, DIM)[:, [1, 2, 3, 0]].reshape(N, DIM))


def topic_only():
    """Nothing is shared but what all verses of a chapter share."""
    topic = 1.5 * of_each(CHAPTER, 10)
    return Languages(topic + noise(1), topic + noise(2))


def length_only():
    """Texts that share their lengths alone, and states along one direction of each language that tell these lengths."""
    generator = np.random.default_rng(0)
    n_words = generator.integers(4, 40, N)
    texts, states = [], []
    for language in range(2):
        longer = generator.normal(1, 0.05, N)
        vocabulary = ["".join(generator.choice(list("abcdefghij"[5 * language :][:5]), 5)) for _ in range(400)]
        texts.append([" ".join(generator.choice(vocabulary, int(n * f))) for n, f in zip(n_words, longer, strict=True)])
        lengths = np.log([len(text) for text in texts[-1]])
        states.append(4 * np.outer(lengths - lengths.mean(), noise(20, DIM)) + 0.3 * noise(21 + language))
    return texts, Languages(*states)


def names_only():
    """Texts that share the proper names alone, and states that tell the names alone."""
    generator = np.random.default_rng(0)
    consonants, vowels = list("bdgklmnprst"), list("aeiou")
    names = ["".join(generator.choice(part) for part in (consonants, vowels) * 3).title() for _ in range(60)]
    chosen = [generator.choice(60, 3, replace=False) for _ in range(N)]
    texts = []
    for alphabet in ("fhjvwxyz", "αβγδεζηθ"):
        vocabulary = ["".join(generator.choice(list(alphabet), 4)) for _ in range(300)]
        texts.append(
            [
                " ".join([*generator.choice(vocabulary, generator.integers(4, 9)), *(names[i] for i in of_verse)])
                for of_verse in chosen
            ]
        )
    bags = np.array([noise(30, 60, DIM)[of_verse].sum(0) for of_verse in chosen])
    return texts, Languages(bags + 0.1 * noise(1), bags + 0.1 * noise(2))


def one_giant_dimension():
    """Aligned languages, with a massive activation in dimension 7 that says nothing."""
    a, b = related()
    for seed, states in enumerate((a, b)):
        states[:, 7] = 300 * noise(40 + seed, N)
    return Languages(a, b)
