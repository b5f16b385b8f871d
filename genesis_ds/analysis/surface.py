"""What the surface of verses says without any model, as states that a model's can be compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genesis_ds import metrics

NGRAMS = (2, 4)
"""Shortest and longest run of characters that counts."""
COMPONENTS = 64


def ngram_counts(texts: Sequence[str]) -> csr_matrix:
    """Return the tf-idf of the character 2- to 4-grams of n texts, unit vectors [n, n-grams]; [n, 0] without any."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, sublinear_tf=True)
    analyze = vectorizer.build_analyzer()
    if not any(analyze(text) for text in texts):
        return csr_matrix((len(texts), 0))
    counts: csr_matrix = vectorizer.fit_transform(texts)
    return counts


def ngram_states(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
    """Return the tf-idf of the character 2- to 4-grams of n texts, reduced by SVD, [n, at most 64].

    Latent semantic analysis (Deerwester et al. 1990). Texts of several languages, given together, share its space: a
    name that two languages spell alike points the same way in both.
    """
    counted = ngram_counts(texts)
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


def surfaces_of_pairs(
    texts: Sequence[Sequence[str]], languages: Sequence[NDArray[np.integer[Any]]]
) -> dict[str, list[NDArray[np.floating[Any]]]]:
    """Return what each surface says of pairs of texts: name of the control -> features [n, any] of each part.

    texts: of each part the n first texts, then the n second ones. languages: of each part, [n]. By n-grams: the cosine
    of their tf-idf, less the mean of the language. By length: the lengths of both.
    """
    counts = ngram_counts([text for part in texts for text in part])
    ends = np.cumsum([len(part) for part in texts])
    found: dict[str, list[NDArray[np.floating[Any]]]] = {metrics.BY_NGRAMS: [], metrics.BY_LENGTH: []}
    for part, of_part, end in zip(texts, languages, ends.tolist(), strict=True):
        start, n = end - len(part), len(of_part)
        cosines = np.asarray(counts[start : start + n].multiply(counts[start + n : end]).sum(1)).ravel()
        _, language = np.unique(of_part, return_inverse=True)
        means = np.bincount(language, cosines) / np.bincount(language)
        found[metrics.BY_NGRAMS].append((cosines - means[language])[:, None])
        lengths = length_states(part)
        found[metrics.BY_LENGTH].append(np.concatenate([lengths[:n], lengths[n:]], axis=1))
    return found


def fit_and_predict(
    seen: NDArray[np.floating[Any]], labels: NDArray[np.bool_], asked: Sequence[NDArray[np.floating[Any]]]
) -> list[NDArray[np.bool_]]:
    """Return what a logistic regression on features [n, any] and their labels says of each of the others."""
    regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(seen, labels)
    return [regression.predict(features) for features in asked]
