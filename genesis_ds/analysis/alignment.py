"""How alike two languages lie in the space of a model. All measures take the same n verses in both, row by row.

What is fitted is fitted on some verses and measured on others. In-sample, Procrustes finds independent Gaussians alike
where there are few verses for their width: a disparity of 0.30 for 500 verses at 768 dimensions.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import rankdata
from sklearn.decomposition import PCA

from genesis_ds.analysis.resampling import chapter_counts, interval, z_score

Array = NDArray[np.floating[Any]]

COMPONENTS = 64
"""Principal components in which a rotation is fitted, if there are enough verses."""
VERSES_PER_COMPONENT = 4
"""Verses that a component needs: with fewer, a rotation fits their noise."""
NEIGHBOURS = 10
"""k of CSLS and of mutual_knn."""
JUDGED = ("procrustes", "cka", "csls_at_1", "mrr", "mexa", "mutual_knn")
"""What has a null and an interval."""
MEASURES = (*JUDGED, "procrustes_permuted")


class Halves(NamedTuple):
    """The same verses' states in one language, fp32 or fp64."""

    fit: Array
    """[n, D]: what means, components and rotations are fitted on."""
    test: Array
    """[m, D]: what is measured."""


class Orders(NamedTuple):
    """Orders of the second language's verses, each of which pairs them with others than their translations."""

    fit: NDArray[np.int64]
    """[N, n]."""
    test: NDArray[np.int64]
    """[N, m]."""


def align(a: Halves, b: Halves, seed: int = 0) -> dict[str, float]:
    """Return MEASURES of two languages, on test centred by the means of fit.

    All are nan where a state is not finite or all are alike.

    procrustes: 0 for rotated, moved and scaled copies, 1 or a little more by chance, which procrustes_permuted shows,
    the same for verses of which each is paired with another. cka: 1 for such copies, 0 by chance. The others are
    without any rotation. csls_at_1 and mrr: of finding a verse in the other language, both ways; by chance 1/m and
    about ln(m)/m. mexa: the share of verses nearest to each other both ways; by chance about 1/2m. mutual_knn: the
    share of a verse's neighbours within the one language that are its neighbours within the other; by chance 10/(m-1).
    """
    if not all(_is_measurable(half) for half in (a, b)):
        return dict.fromkeys(MEASURES, float("nan"))
    pair, generator = Pair.of(a, b), np.random.default_rng(seed)
    shuffled_fit, shuffled_test = generator.permutation(len(a.fit)), generator.permutation(len(a.test))
    permuted = pair.procrustes(shuffled_fit, shuffled_test)
    return pair.measures(np.arange(len(a.fit)), np.arange(len(a.test))) | {"procrustes_permuted": _ratio(permuted)}


def judge(a: Halves, b: Halves, orders: Orders, chapters: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Return what chance gives and how sure the measures are: z, low and high of each of JUDGED, as `cka/z`.

    z: standard deviations above the mean of what the orders give; for procrustes, less is more alike. low, high: of
    the 95 % interval over the chapters of the test verses, [m]. Nothing is fitted anew. Nothing where align finds nan.
    """
    if not all(_is_measurable(half) for half in (a, b)):
        return {}
    pair, unchanged = Pair.of(a, b), (np.arange(len(a.fit)), np.arange(len(a.test)))
    found = pair.measures(*unchanged)
    nulls = [pair.measures(fit, test) for fit, test in zip(orders.fit, orders.test, strict=True)]
    resampled = pair.resampled(chapter_counts(chapters), chapters)
    judged = {}
    for name, value in found.items():
        judged[f"{name}/z"] = z_score(value, np.array([null[name] for null in nulls]))
        judged[f"{name}/low"], judged[f"{name}/high"] = interval(resampled[name])
    return judged


@dataclass(frozen=True)
class Pair:
    """Two languages' states, compared once: every order of the second one's verses is measured from these arrays."""

    reduced: tuple[Halves, Halves]
    """In principal components, for Procrustes."""
    grams: tuple[Array, Array]
    """[m, m] each: U-centred, for CKA."""
    ranks: tuple[NDArray[np.float64], NDArray[np.float64]]
    """[m, m] each, by CSLS: [i, j] is the rank of b's j among all for a's i, and that of a's i for b's j."""
    nearest: NDArray[np.bool_]
    """[m, m]: whether the cosine of a's i and b's j exceeds every other of its row and of its column."""
    near: tuple[Array, Array]
    """[m, m] each: neighbours within a and within b."""

    @classmethod
    def of(cls, a: Halves, b: Halves) -> "Pair":
        """Return the pair of two languages, on test centred by the means of fit."""
        a, b = (Halves(half.fit.astype(np.float64), half.test.astype(np.float64)) for half in (a, b))
        centred_a, centred_b = (half.test - half.fit.mean(0) for half in (a, b))
        cosines = _unit(centred_a) @ _unit(centred_b).T
        scores = csls(cosines)
        return cls(
            reduced=(_principal_components(a), _principal_components(b)),
            grams=(_u_centred(centred_a @ centred_a.T), _u_centred(centred_b @ centred_b.T)),
            ranks=(_ranks_in_row(scores), _ranks_in_row(scores.T).T),
            nearest=exceeds_all(cosines),
            near=(neighbours(centred_a), neighbours(centred_b)),
        )

    def measures(self, fit: NDArray[np.int64], test: NDArray[np.int64]) -> dict[str, float]:
        """Return JUDGED where b's verses stand in these orders, of n and of m."""
        of_verses = {name: float(values.mean()) for name, values in self._of_verses(test).items()}
        products, a, b = self._cka_terms(test)
        return {
            "procrustes": _ratio(self.procrustes(fit, test)),
            "cka": float(products.sum() / np.sqrt(a.sum() * b.sum())),
            **of_verses,
        }

    def resampled(self, counts: NDArray[np.int64], chapters: NDArray[np.integer[Any]]) -> dict[str, Array]:
        """Return JUDGED where verses count as often as each row of counts, [N, m], says: [N] each.

        chapters: [m]. A pair of verses counts for CKA by the product of their counts, within a chapter by the count of
        that: otherwise a chapter drawn twice is paired with itself, which looks like an alignment.
        """
        unchanged = np.arange(counts.shape[1])
        residuals, totals = self.procrustes(np.arange(len(self.reduced[0].fit)), unchanged)
        within = chapters[:, None] == chapters
        products, a, b = (
            ((counts @ np.where(within, 0, terms)) * counts).sum(1) + counts @ np.where(within, terms, 0).sum(1)
            for terms in self._cka_terms(unchanged)
        )
        return {
            "procrustes": (counts @ residuals) / (counts @ totals),
            "cka": products / np.sqrt(a * b),
            **{name: counts @ values / counts.sum(1) for name, values in self._of_verses(unchanged).items()},
        }

    def procrustes(self, fit: NDArray[np.int64], test: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return squares_left in principal components where b's verses stand in these orders."""
        a, b = self.reduced
        return squares_left(a, Halves(b.fit[fit], b.test[test]))

    def _of_verses(self, order: NDArray[np.int64]) -> dict[str, Array]:
        """Return the measures that are means over verses: [m] each."""
        verse = np.arange(len(order))
        ranks = np.stack([of_side[verse, order] for of_side in self.ranks])
        of_a, of_b = self.near
        return {
            "csls_at_1": (ranks == 1).mean(0),
            "mrr": (1 / ranks).mean(0),
            "mexa": self.nearest[verse, order].astype(np.float64),
            "mutual_knn": (of_a * of_b[np.ix_(order, order)]).sum(1) / of_a.sum(1),
        }

    def _cka_terms(self, order: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Return [m, m] each: what is summed to HSIC of a with b, of a and of b."""
        a, b = self.grams
        b = b[np.ix_(order, order)]
        return a * b, a * a, b * b


def squares_left(a: Halves, b: Halves) -> tuple[Array, Array]:
    """Return what a rotation and a scale fitted on fit leave of b's test verses, and all there is: squares, [m] each.

    Schoenemann 1966. Where the test verses are those of fit, the ratio of the sums is the disparity of
    scipy.spatial.procrustes, of Gower 1975.
    """
    fit_a, fit_b = a.fit - a.fit.mean(0), b.fit - b.fit.mean(0)
    rotation, covariance = orthogonal_procrustes(fit_a, fit_b)
    carried = (a.test - a.fit.mean(0)) @ rotation * (covariance / np.square(fit_a).sum())
    wanted = b.test - b.fit.mean(0)
    return np.square(wanted - carried).sum(1), np.square(wanted).sum(1)


def csls(cosines: Array) -> Array:
    """Return the cosines [n, n] of two sides by cross-domain similarity local scaling.

    That is twice the cosine less the mean cosine with the k nearest of the other side, for both rows (Conneau et al.,
    arXiv 1710.04087).
    """
    k = min(NEIGHBOURS, len(cosines))
    crowding = [np.partition(side, -k, axis=1)[:, -k:].mean(1) for side in (cosines, cosines.T)]
    scores: Array = 2 * cosines - crowding[0][:, None] - crowding[1]
    return scores


def exceeds_all(cosines: Array) -> NDArray[np.bool_]:
    """Return [n, n]: whether each cosine of two sides exceeds all others of its row and of its column.

    The share of the diagonal for which it holds is the score of MEXA (Kargaran et al., Findings of ACL 2025, arXiv
    2410.05873). The paper takes the states as they are, of a verse's last token or weighted by position, and the best
    layer; here the states are means over a verse's tokens, each language is centred, and every layer has its score.
    """
    in_row, in_column = (np.partition(side, -2, axis=1)[:, -2:] for side in (cosines, cosines.T))
    is_best = (cosines == in_row[:, 1:]) & (cosines == in_column[:, 1])
    is_alone = (in_row[:, :1] < in_row[:, 1:]) & (in_column[:, 0] < in_column[:, 1])
    exceeds: NDArray[np.bool_] = is_best & is_alone
    return exceeds


def neighbours(states: Array, k: int = NEIGHBOURS) -> Array:
    """Return [n, n]: 1 where j is one of the k rows nearest to row i of states [n, D], by cosine, itself left out.

    Rows that tie for the last places share them. The mean share of neighbours that two spaces have in common is the
    mutual nearest-neighbour metric of Huh et al. (2024, arXiv 2405.07987); here each language is centred.
    """
    cosines = _unit(states) @ _unit(states).T
    np.fill_diagonal(cosines, -np.inf)
    k = min(k, len(states) - 1)
    last = np.partition(cosines, -k, axis=1)[:, -k, None]
    nearer, tied = cosines > last, cosines == last
    shares: Array = nearer + tied * ((k - nearer.sum(1)) / tied.sum(1))[:, None]
    return shares


def standardized(halves: Halves) -> Halves:
    """Return the states with every dimension of mean 0 and standard deviation 1 on fit, a constant one 0."""
    mean, spread = halves.fit.mean(0), halves.fit.std(0)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    return Halves((halves.fit - mean) * scale, (halves.test - mean) * scale)


def eta_squared(states: Array) -> float:
    """Return the share of the sum of squares of states [languages, n, D] that lies between the languages' means.

    The correlation ratio (Fisher 1925) over all dimensions: 0 where languages share their mean, 1 where a language is
    a point. nan where a state is not finite or all are alike.
    """
    if not np.isfinite(states).all():
        return float("nan")
    states = states.astype(np.float64)
    total = np.square(states - states.mean((0, 1))).sum()
    between = np.square(states.mean(1) - states.mean((0, 1))).sum() * states.shape[1]
    return float(between / total) if total > 0 else float("nan")


class Dominance(NamedTuple):
    """The dimension in which states vary the most, and its share of their variance."""

    dimension: int
    share: float


def largest_dimension(states: Array) -> Dominance:
    """Return the dimension of states [n, D] with the largest share of their variance.

    Massive activations (Sun et al. 2024, arXiv 2402.17762) hold most of it in a few dimensions, and cosines, Gram
    matrices and rotations then see little else. nan where a state is not finite or nothing varies.
    """
    if not np.isfinite(states).all():
        return Dominance(0, float("nan"))
    variances = states.astype(np.float64).var(0)
    dimension, total = int(variances.argmax()), variances.sum()
    return Dominance(dimension, float(variances[dimension] / total) if total > 0 else float("nan"))


def _is_measurable(halves: Halves) -> bool:
    return all(np.isfinite(states).all() and bool(np.ptp(states, axis=0).any()) for states in halves)


def _ratio(squares: tuple[Array, Array]) -> float:
    residual, total = squares
    return float(residual.sum() / total.sum())


def _ranks_in_row(scores: Array) -> NDArray[np.float64]:
    """Return [n, n]: the rank of each score in its row, from 1 for the largest; ties share their mean rank."""
    ranks: NDArray[np.float64] = rankdata(-scores, axis=1)
    return ranks


def _principal_components(states: Halves) -> Halves:
    n = min(COMPONENTS, len(states.fit) // VERSES_PER_COMPONENT, states.fit.shape[1])
    components = PCA(n, svd_solver="full").fit(states.fit)
    return Halves(components.transform(states.fit), components.transform(states.test))


def _u_centred(gram: Array) -> Array:
    """Return the U-centred Gram matrix [n, n], n at least 4: the product of two of them is HSIC without a bias.

    Kornblith et al., arXiv 1905.00414; the estimator of Song et al. (JMLR 2012), in the form of Szekely & Rizzo 2014
    (arXiv 1310.2926).
    """
    n = len(gram)
    gram = gram - np.diag(gram.diagonal())
    sums = gram.sum(1) / (n - 2)
    gram = gram - sums[:, None] - sums + sums.sum() / (n - 1)
    np.fill_diagonal(gram, 0)
    return gram


def _unit(states: Array) -> Array:
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(norms > 0, norms, 1)
