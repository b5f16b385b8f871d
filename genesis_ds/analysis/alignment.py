"""How alike two languages lie in the space of a model. All measures take the same n verses in both, row by row.

What is fitted is fitted on some verses and measured on others. In-sample, Procrustes finds independent Gaussians alike
where there are few verses for their width: a disparity of 0.30 for 500 verses at 768 dimensions.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

COMPONENTS = 64
"""Principal components in which a rotation is fitted, if there are enough verses."""
VERSES_PER_COMPONENT = 4
"""Verses that a component needs: with fewer, a rotation fits their noise."""
NEIGHBOURS = 10
"""k of CSLS."""
MEASURES = ("procrustes", "procrustes_permuted", "cka", "csls_at_1", "mrr")


class Halves(NamedTuple):
    """The same verses' states in one language, fp32 or fp64."""

    fit: NDArray[np.floating[Any]]
    """[n, D]: what means, components and rotations are fitted on."""
    test: NDArray[np.floating[Any]]
    """[m, D]: what is measured."""


def align(a: Halves, b: Halves, seed: int = 0) -> dict[str, float]:
    """Return MEASURES of two languages, on test centred by the means of fit.

    All are nan where a state is not finite or all are alike.

    procrustes: 0 for rotated, moved and scaled copies, 1 or a little more by chance, which procrustes_permuted shows,
    the same for verses of which each is paired with another. cka: 1 for such copies, 0 by chance. csls_at_1 and mrr:
    of finding a verse in the other language, both ways, without any rotation; by chance 1/m and about ln(m)/m.
    """
    if not all(np.isfinite(states).all() and np.ptp(states, axis=0).any() for states in (*a, *b)):
        return dict.fromkeys(MEASURES, float("nan"))
    generator = np.random.default_rng(seed)
    a, b = (Halves(half.fit.astype(np.float64), half.test.astype(np.float64)) for half in (a, b))
    reduced_a, reduced_b = _principal_components(a), _principal_components(b)
    shuffled = Halves(fit=generator.permutation(reduced_b.fit), test=generator.permutation(reduced_b.test))
    centred_a, centred_b = (half.test - half.fit.mean(0) for half in (a, b))
    ranks = csls_ranks(centred_a, centred_b)
    return {
        "procrustes": held_out_procrustes(reduced_a, reduced_b),
        "procrustes_permuted": held_out_procrustes(reduced_a, shuffled),
        "cka": debiased_cka(centred_a, centred_b),
        "csls_at_1": float((ranks == 1).mean()),
        "mrr": float((1 / ranks).mean()),
    }


def held_out_procrustes(a: Halves, b: Halves) -> float:
    """Return what a rotation and a scale fitted on fit leave of b on test: residual over total sum of squares.

    Schoenemann 1966. With the test verses those of fit it is the disparity of scipy.spatial.procrustes, of Gower 1975.
    """
    fit_a, fit_b = a.fit - a.fit.mean(0), b.fit - b.fit.mean(0)
    rotation, covariance = orthogonal_procrustes(fit_a, fit_b)
    carried = (a.test - a.fit.mean(0)) @ rotation * (covariance / np.square(fit_a).sum())
    wanted = b.test - b.fit.mean(0)
    return float(np.square(wanted - carried).sum() / np.square(wanted).sum())


def debiased_cka(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Return the linear CKA of states [n, D] and [n, E] with the unbiased estimator of HSIC.

    It is 0 by chance, whatever n and D.
    Kornblith et al., arXiv 1905.00414; the estimator of Song et al. (JMLR 2012), as the product of U-centred Gram
    matrices (Szekely & Rizzo 2014, arXiv 1310.2926). n is at least 4.
    """
    gram_a, gram_b = _u_centred(a @ a.T), _u_centred(b @ b.T)
    return float((gram_a * gram_b).sum() / (np.linalg.norm(gram_a) * np.linalg.norm(gram_b)))


def csls_ranks(
    a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], neighbours: int = NEIGHBOURS
) -> NDArray[np.float64]:
    """Return [2 n] ranks, from 1, of each row's counterpart: of a's rows [n, D] among b's, then of b's among a's.

    By cross-domain similarity local scaling, twice the cosine less the mean cosine with the k nearest of the other
    side, for both rows (Conneau et al., arXiv 1710.04087). Ties share their mean rank.
    """
    cosines = _unit(a) @ _unit(b).T
    k = min(neighbours, len(cosines))
    crowding = [np.partition(side, -k, axis=1)[:, -k:].mean(1) for side in (cosines, cosines.T)]
    scores = 2 * cosines - crowding[0][:, None] - crowding[1]
    return np.concatenate([_own_ranks(scores), _own_ranks(scores.T)])


def _own_ranks(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    own = scores.diagonal()[:, None]
    ranks: NDArray[np.float64] = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return ranks


def _principal_components(states: Halves) -> Halves:
    n = min(COMPONENTS, len(states.fit) // VERSES_PER_COMPONENT, states.fit.shape[1])
    components = PCA(n, svd_solver="full").fit(states.fit)
    return Halves(components.transform(states.fit), components.transform(states.test))


def _u_centred(gram: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    n = len(gram)
    gram = gram - np.diag(gram.diagonal())
    sums = gram.sum(1) / (n - 2)
    gram = gram - sums[:, None] - sums + sums.sum() / (n - 1)
    np.fill_diagonal(gram, 0)
    return gram


def _unit(states: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(norms > 0, norms, 1)
