"""How far verses of one concept lie together, whatever their language."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, rel_entr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, homogeneity_score, silhouette_score, v_measure_score

from genesis_ds.analysis.resampling import permutations, z_score

RESTARTS = 4
"""Initialisations of k-means, of which the best counts."""
PERMUTATIONS = 10
SILHOUETTE_SAMPLE = 1500
"""Rows of which a silhouette is the mean; it takes all distances between them."""
BY_CONCEPT = ("v_measure", "v_measure_permuted", "ari", "silhouette")
BY_LANGUAGE = ("v_measure_language", "language_entropy", "language_entropy_permuted", "language_silhouette")


def cluster(
    states: NDArray[np.floating[Any]],
    concepts: NDArray[np.int64],
    languages: NDArray[np.int64],
    verses: NDArray[np.int64],
    *,
    verse_ids: NDArray[np.integer[Any]] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Cluster states [n, D], centred by language, by k-means into as many clusters as concepts, and measure these.

    concepts, languages, verses: [n], what each state is of; a verse has one concept, in all languages.

    v_measure (Rosenberg & Hirschberg 2007) and ari (Hubert & Arabie 1985) of the clusters with the concepts are 1 where
    they are the same. v_measure_permuted is the mean for concepts dealt out to the verses anew: what chance gives,
    which is above 0. silhouette (Rousseeuw 1987), of the concepts, is from -1 to 1. With several languages:
    v_measure_language, of the clusters with the languages; language_entropy, how mixed the languages are in a cluster,
    1 as in the whole, 0 a single one, and language_entropy_permuted, with languages dealt out anew: what noise gives;
    and language_silhouette of the states before they are centred, near 0 where the languages lie among each other and
    up to 1 where each lies by itself.

    verse_ids: [n], book * 1,000,000 + chapter * 1000 + verse; with them also v_measure/z.
    All are nan where a state is not finite or all are alike.
    """
    several = len(np.unique(languages)) > 1
    if not np.isfinite(states).all() or not np.ptp(states, axis=0).any():
        return dict.fromkeys(BY_CONCEPT + BY_LANGUAGE * several, float("nan"))
    centred = centred_by(languages, states)
    n_concepts = len(np.unique(concepts))
    clusters = KMeans(n_concepts, n_init=RESTARTS, random_state=seed).fit_predict(centred)
    permuted = v_measures(np.stack(_dealt_anew(concepts, verses, seed)), clusters)
    sample = {"sample_size": min(len(states), SILHOUETTE_SAMPLE), "random_state": seed}
    found = {
        "v_measure": v_measure_score(concepts, clusters),
        "v_measure_permuted": np.mean(permuted),
        "ari": adjusted_rand_score(concepts, clusters),
        "silhouette": silhouette_score(centred, concepts, **sample),
    }
    if several:
        found |= mixture(clusters, languages, seed)
        found["language_silhouette"] = silhouette_score(states, languages, **sample)
    if verse_ids is not None:
        found["v_measure/z"] = z_of_v_measure(clusters, concepts, verse_ids)
    return {name: float(value) for name, value in found.items()}


def mixture(clusters: NDArray[np.int64], languages: NDArray[np.int64], seed: int) -> dict[str, float]:
    """Return how n clustered states mix their languages: BY_LANGUAGE but the silhouette."""
    dealt_anew = _dealt_anew(languages, np.arange(len(languages)), seed)
    return {
        "v_measure_language": v_measure_score(languages, clusters),
        "language_entropy": 1 - homogeneity_score(languages, clusters),
        "language_entropy_permuted": np.mean([1 - homogeneity_score(dealt, clusters) for dealt in dealt_anew]),
    }


def z_of_v_measure(
    clusters: NDArray[np.int64], concepts: NDArray[np.int64], verse_ids: NDArray[np.integer[Any]]
) -> float:
    """Return the z_score of the V-measure of n clustered states, with concepts permuted among each book's verses.

    Nothing is clustered again. There is no interval: what is drawn twice lies in its cluster twice, and makes every
    resample look better than the whole.
    """
    ids, first, verse = np.unique(verse_ids, return_index=True, return_inverse=True)
    orders = permutations(ids // 1_000_000)
    null = v_measures(concepts[first][orders][:, verse], clusters)
    return z_score(v_measure_score(concepts, clusters), null)


def v_measures(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the V-measure of n clustered states with each row of labels [N, n], [N].

    The harmonic mean of homogeneity and completeness is twice the mutual information over the sum of the entropies.
    """
    members = labels[:, None] == np.unique(labels)[:, None]
    joint = members @ (clusters[:, None] == np.unique(clusters)).astype(np.float64) / len(clusters)
    of_labels, of_clusters = joint.sum(2, keepdims=True), joint.sum(1, keepdims=True)
    information = rel_entr(joint, of_labels * of_clusters).sum((1, 2))
    measures: NDArray[np.float64] = 2 * information / (entr(of_labels).sum((1, 2)) + entr(of_clusters).sum((1, 2)))
    return measures


def centred_by(groups: NDArray[np.int64], states: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return states [n, D] less the mean of their group."""
    centred: NDArray[np.floating[Any]] = states.copy()
    for group in np.unique(groups):
        centred[groups == group] -= states[groups == group].mean(0)
    return centred


def _dealt_anew(labels: NDArray[np.int64], verses: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return the labels of the verses in other orders, a verse's the same in all its states."""
    generator = np.random.default_rng(seed)
    _, first, verse = np.unique(verses, return_index=True, return_inverse=True)
    return [generator.permutation(labels[first])[verse] for _ in range(PERMUTATIONS)]
