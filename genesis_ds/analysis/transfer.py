"""Whether what is learned of concepts in one language and some books holds in another language and other books."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genesis_ds.analysis.resampling import chapter_counts, interval, permutations, z_score

Array = NDArray[np.floating[Any]]


class Labels(NamedTuple):
    """What is known of n verses."""

    concepts: NDArray[np.int64]
    """[n]."""
    verse_ids: NDArray[np.integer[Any]]
    """[n]: book * 1,000,000 + chapter * 1000 + verse."""

    @property
    def books(self) -> NDArray[np.integer[Any]]:
        """[n]: the book of each."""
        return self.verse_ids // 1_000_000


def transfer(states: Array, labels: Labels, *, thorough: bool = False) -> dict[str, float]:
    """Return how well concepts carry over: `transfer`, a balanced accuracy, and `transfer/chance`.

    states: [languages, n, D]. A logistic regression learns the concepts in one language and half of the books, and is
    asked in each other language and the other books, for both halves and every language; centring by language needs
    no concepts. Neither a verse, nor a book, nor a language is in both. The chance is the mean with the concepts
    permuted among the verses of each book, so that a concept known by the book's style is no find. Concepts that one
    half lacks are left out.

    thorough: also `transfer/z`, and `transfer/low` and `transfer/high` of a bootstrap of chapters.
    Nothing for a single language, and where the halves do not share two concepts; nan where a state is not finite.
    """
    half = book_halves(labels.books)
    shared = np.intersect1d(labels.concepts[half == 0], labels.concepts[half == 1])
    if len(states) < 2 or len(shared) < 2:
        return {}
    kept = np.isin(labels.concepts, shared)
    if not np.isfinite(states).all():
        return dict.fromkeys(("transfer", "transfer/chance"), float("nan"))
    concepts, ids = labels.concepts[kept], labels.verse_ids[kept]
    books = labels.books[kept]
    predicted = predict(states[:, kept], concepts, half[kept])
    once = np.ones((1, len(concepts)), np.int64)
    value = float(balanced_accuracy(predicted, concepts, once)[0])
    null = np.array([balanced_accuracy(predicted, concepts[order], once)[0] for order in permutations(books)])
    found = {"transfer": value, "transfer/chance": float(null.mean())}
    if thorough:
        low, high = interval(balanced_accuracy(predicted, concepts, chapter_counts(ids // 1000)))
        found |= {"transfer/z": z_score(value, null), "transfer/low": low, "transfer/high": high}
    return found


def book_halves(books: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return [n] of 0 and 1: the books in two halves of about as many verses, the largest book dealt out first."""
    names, book, counts = np.unique(books, return_inverse=True, return_counts=True)
    half_of, sizes = np.zeros(len(names), np.int64), [0, 0]
    for number in np.argsort(-counts, kind="stable"):
        half_of[number] = sizes[0] > sizes[1]
        sizes[half_of[number]] += counts[number]
    return half_of[book]


def predict(states: Array, concepts: NDArray[np.int64], half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the concepts that are told of states [languages, n, D], [pairs of languages, n].

    Those of each verse by a logistic regression on the verses of the other half in the pair's other language.
    """
    centred = states - states.mean(1, keepdims=True)
    pairs = [(known, asked) for known in range(len(states)) for asked in range(len(states)) if known != asked]
    predicted = np.empty((len(pairs), len(concepts)), np.int64)
    for known in range(len(states)):
        for fitted in (0, 1):
            regression = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
            regression.fit(centred[known, half == fitted], concepts[half == fitted])
            for row, (learned, asked) in enumerate(pairs):
                if learned == known:
                    predicted[row, half != fitted] = regression.predict(centred[asked, half != fitted])
    return predicted


def balanced_accuracy(
    predicted: NDArray[np.int64], concepts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the recall of each concept, averaged over those there are, [N]; predicted is [any, n].

    counts: [N, n], how often each verse counts.
    """
    right = (predicted == concepts).mean(0)
    members = (concepts[:, None] == np.unique(concepts)).astype(np.float64)
    asked = counts @ members
    recalls = np.divide(counts @ (right[:, None] * members), asked, out=np.full(asked.shape, np.nan), where=asked > 0)
    accuracies: NDArray[np.float64] = np.nanmean(recalls, axis=1)
    return accuracies
