import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score, v_measure_score

from genesis_ds.analysis.clustering import cluster, v_measures

N_VERSES, N_LANGUAGES, DIM = 120, 3, 32
CONCEPTS = np.tile(np.arange(N_VERSES) % 4, N_LANGUAGES)
VERSES = np.tile(np.arange(N_VERSES), N_LANGUAGES)
LANGUAGES = np.repeat(np.arange(N_LANGUAGES), N_VERSES)


def space(by_concept, by_language, by_verse=0.0):
    """States with a centre for each concept, each language and each verse, so far out, and noise."""
    generator = np.random.default_rng(0)
    parts = ((by_concept, CONCEPTS), (by_language, LANGUAGES), (by_verse, VERSES))
    centres = [size * generator.normal(size=(of.max() + 1, DIM))[of] for size, of in parts]
    return sum(centres) + generator.normal(size=(len(VERSES), DIM))


def test_concepts_far_apart_are_found_although_languages_are_farther():
    found = cluster(space(4, 20), CONCEPTS, LANGUAGES, VERSES)
    assert found["v_measure"] == found["ari"] == pytest.approx(1)
    assert found["silhouette"] > 0.5
    assert found["language_entropy"] == pytest.approx(1)
    assert found["v_measure_language"] == pytest.approx(0, abs=1e-9)


def test_a_space_that_only_separates_languages_is_exposed_as_one():
    found = cluster(space(0, 20), CONCEPTS, LANGUAGES, VERSES)
    assert found["v_measure"] == pytest.approx(found["v_measure_permuted"], abs=0.05)
    assert found["ari"] == pytest.approx(0, abs=0.03)
    assert found["language_silhouette"] > 0.8
    assert cluster(space(4, 0), CONCEPTS, LANGUAGES, VERSES)["language_silhouette"] < 0.05


def test_the_scores_are_scikit_learns_of_states_centred_by_language():
    states = space(1, 3)
    centred = np.concatenate([part - part.mean(0) for part in np.split(states, N_LANGUAGES)])
    clusters = KMeans(4, n_init=20, random_state=1).fit_predict(centred)
    found = cluster(states, CONCEPTS, LANGUAGES, VERSES)
    assert found["v_measure"] == pytest.approx(v_measure_score(CONCEPTS, clusters), abs=0.02)
    assert found["ari"] == pytest.approx(adjusted_rand_score(CONCEPTS, clusters), abs=0.02)
    assert found["silhouette"] == pytest.approx(silhouette_score(centred, CONCEPTS))
    assert found["language_silhouette"] == pytest.approx(silhouette_score(states, LANGUAGES))


def test_v_measures_of_many_labels_are_scikit_learns():
    generator = np.random.default_rng(0)
    clusters = generator.integers(0, 5, 200)
    labels = np.stack([generator.permutation(np.arange(200) % 3), clusters % 3, np.arange(200) // 70])
    expected = [v_measure_score(row, clusters) for row in labels]
    assert v_measures(labels, clusters) == pytest.approx(expected, abs=1e-12)
    assert v_measures(labels, np.zeros(200, np.int64)) == pytest.approx(0, abs=1e-12)


def test_chance_allows_for_verses_that_lie_together_in_all_languages():
    """Then there are fewer independent draws, and concepts dealt out at random fit clusters better."""
    alone, together = (cluster(space(0, 0, of_verse), CONCEPTS, LANGUAGES, VERSES) for of_verse in (0, 10))
    assert together["v_measure_permuted"] > 1.5 * alone["v_measure_permuted"]
    assert together["v_measure"] == pytest.approx(together["v_measure_permuted"], abs=0.04)


def test_languages_that_differ_in_more_than_their_mean_show_in_the_clusters():
    states = space(0, 0)
    for language in range(N_LANGUAGES):  # each language along an axis of its own
        states[language == LANGUAGES, language] += 20 * np.random.default_rng(language).choice([-1, 1], N_VERSES)
    found = cluster(states, CONCEPTS, LANGUAGES, VERSES)
    assert found["v_measure_language"] > 0.3
    assert found["language_entropy"] < 0.7


def test_a_single_language_has_measures_of_concepts_alone():
    one = LANGUAGES == 0
    found = cluster(space(6, 0)[one], CONCEPTS[one], LANGUAGES[one], VERSES[one])
    assert set(found) == {"v_measure", "v_measure_permuted", "ari", "silhouette"}
    assert found["v_measure"] == pytest.approx(1)


def test_states_that_are_not_finite_give_nan():
    states = space(1, 1)
    states[0, 0] = np.inf
    found = cluster(states, CONCEPTS, LANGUAGES, VERSES)
    assert set(found) == set(cluster(space(1, 1), CONCEPTS, LANGUAGES, VERSES))
    assert all(np.isnan(value) for value in found.values())
