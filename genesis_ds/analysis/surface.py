"""What the surface of verses says without any model, as states that a model's can be compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from genesis_ds import metrics

NGRAMS = (2, 4)
"""Shortest and longest run of characters that counts."""
COMPONENTS = 64


def ngram_states(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
    """Return the tf-idf of the character 2- to 4-grams of n texts, reduced by SVD, [n, at most 64].

    Latent semantic analysis (Deerwester et al. 1990). Texts of several languages, given together, share its space: a
    name that two languages spell alike points the same way in both.
    """
    counted = TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True).fit_transform(texts)
    n = min(COMPONENTS, counted.shape[0] - 1, counted.shape[1] - 1)
    reduced: NDArray[np.floating[Any]] = TruncatedSVD(n, random_state=0).fit_transform(counted)
    return reduced


def length_states(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
    """Return the logarithms of the lengths of n texts in characters and in words, [n, 2]."""
    return np.log1p([[len(text), len(text.split())] for text in texts])


SURFACES: dict[str, Callable[[Sequence[str]], NDArray[np.floating[Any]]]] = {
    metrics.BY_NGRAMS: ngram_states,
    metrics.BY_LENGTH: length_states,
}
"""Name of a control -> the states it gives n texts, [n, any width]."""
