import numpy as np
import pytest
from helpers import known_states
from scipy.spatial import procrustes
from scipy.stats import ortho_group
from sklearn.neighbors import NearestNeighbors

from genesis_ds.analysis.alignment import (
    JUDGED,
    Halves,
    Orders,
    Pair,
    align,
    csls,
    eta_squared,
    exceeds_all,
    judge,
    largest_dimension,
    neighbours,
    squares_left,
    standardized,
)
from genesis_ds.analysis.resampling import chapter_counts, derangements, exchangeable
from genesis_ds.analysis.surface import length_states, ngram_states


def gaussians(seed, n, dim):
    return np.random.default_rng(seed).normal(size=(n, dim))


def halves(states):
    return Halves(states[: len(states) // 2], states[len(states) // 2 :])


def with_a_spectrum(seed, n, dim):
    """States whose directions have unlike variances, so that some components matter more than others."""
    return gaussians(seed, n, dim) * np.geomspace(10, 0.1, dim)


def in_sample_procrustes(a, b):
    left, total = squares_left(Halves(a, a), Halves(b, b))
    return left.sum() / total.sum()


def test_a_rotated_scaled_and_moved_copy_is_the_same_by_every_measure_that_allows_for_it():
    states = with_a_spectrum(0, 300, 128)
    copy = 3 * states @ ortho_group.rvs(128, random_state=1) + 5
    found = align(halves(states), halves(copy))
    assert found["procrustes"] == pytest.approx(0, abs=1e-9)
    assert found["procrustes_permuted"] > 1
    assert found["cka"] == pytest.approx(1)
    assert found["csls_at_1"] < 0.1, "retrieval is without a rotation"
    moved = align(halves(states), halves(3 * states + 5))
    assert moved["csls_at_1"] == moved["mrr"] == 1


def test_independent_gaussians_are_at_chance_also_at_a_width_where_in_sample_procrustes_is_not():
    a, b = gaussians(0, 500, 768), gaussians(1, 500, 768)
    assert in_sample_procrustes(a, b) == pytest.approx(0.30, abs=0.02)
    found = align(halves(a), halves(b))
    assert 1 <= found["procrustes"] < 1.2
    assert found["procrustes"] == pytest.approx(found["procrustes_permuted"], abs=0.05)
    assert found["cka"] == pytest.approx(0, abs=0.02)
    assert found["csls_at_1"] < 0.02
    assert found["mrr"] == pytest.approx(np.log(250) / 250, abs=0.02)


def test_in_sample_the_residual_is_scipys_disparity():
    a, b = gaussians(0, 40, 6), gaussians(1, 40, 6) + 3
    assert in_sample_procrustes(a, b) == pytest.approx(procrustes(a, b)[2])


def test_half_a_shared_signal_lies_between_and_shuffled_pairs_are_at_chance():
    shared = with_a_spectrum(0, 400, 64)
    a, b = (shared + with_a_spectrum(seed, 400, 64) for seed in (1, 2))
    found = align(halves(a), halves(b @ ortho_group.rvs(64, random_state=3)))
    assert 0.3 < found["procrustes"] < 0.95
    assert 0.2 < found["cka"] < 0.8
    assert found["procrustes_permuted"] >= 1


def test_cka_is_the_ratio_of_unbiased_hsic():
    """Against the estimator as Song et al. (2012) write it down."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        ones = np.ones(n)
        middle = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    a = gaussians(0, 30, 5)
    b = a * [1, 1, 1, 0, 0] + gaussians(1, 30, 5)
    k, m = a @ a.T, b @ b.T
    found = align(Halves(a, a), Halves(b, b))["cka"]
    assert found == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_csls_finds_what_a_hub_hides_from_cosines():
    common, states = gaussians(0, 1, 40), gaussians(1, 60, 40)
    a, b = common + states, common + 0.4 * states + 0.9 * gaussians(2, 60, 40)
    b[0] = common
    cosines = np.corrcoef(a, b)[:60, 60:]
    assert (cosines.argmax(1) == 0).mean() > 0.2, "the hub is nearest to many"
    by_cosine, by_csls = cosines.argmax(1) == np.arange(60), csls(cosines).argmax(1) == np.arange(60)
    assert by_csls.mean() > by_cosine.mean() + 0.15


def test_ties_share_their_rank_and_states_that_say_nothing_are_nan():
    alike = Halves(np.repeat([[1.0], [-1.0]], 10, axis=0) * np.ones(4), np.ones((20, 4)))
    assert set(np.ravel(Pair.of(alike, alike).ranks)) == {10.5}
    same = Halves(np.ones((20, 4)), np.ones((20, 4)))
    broken = Halves(np.full((20, 4), np.nan), np.ones((20, 4)))
    for states in (same, broken):
        assert all(np.isnan(value) for value in align(states, halves(gaussians(0, 40, 4))).values())


def in_halves(states):
    """Fitted on every other book, measured on the rest, as in a run no chapter is in both."""
    fitted = known_states.VERSE_IDS // 1_000_000 % 2 == 0
    return Halves(states[fitted], states[~fitted])


FIT, TEST = in_halves(known_states.VERSE_IDS)
ORDERS = Orders(derangements(exchangeable(FIT)), derangements(exchangeable(TEST)))
CHAPTERS = TEST // 1000


def judged(languages):
    a, b = (in_halves(states) for states in languages)
    return align(a, b), judge(a, b, ORDERS, CHAPTERS)


def z_scores(languages):
    _, found = judged(languages)
    return {name: (-1 if name == "procrustes" else 1) * found[f"{name}/z"] for name in JUDGED}


def controls(texts):
    """What the surface of the texts gives by every measure."""
    every = [text for of_language in texts for text in of_language]
    found = {}
    for name, states in (("n-grams", ngram_states(every)), ("length", length_states(every))):
        a, b = states.reshape(2, len(texts[0]), -1)
        found[name] = align(in_halves(a), in_halves(b))
    return found


def test_related_languages_are_beyond_chance_by_every_measure():
    assert min(z_scores(known_states.related()).values()) > 4


def test_translations_shuffled_within_their_chapters_are_at_chance_by_every_measure():
    shuffled = known_states.shuffled_within_chapters()
    assert max(z_scores(shuffled).values()) < 2.5
    assert judged(shuffled)[0]["cka"] > 0.1, "which is no small value"


def test_the_topic_of_a_chapter_is_at_chance_although_it_is_far_beyond_pairs_of_any_verses():
    topic = known_states.topic_only()
    assert max(map(abs, z_scores(topic).values())) < 3
    a, b = (in_halves(states) for states in topic)
    anywhere = Orders(*(derangements(np.zeros(len(half), int)) for half in (a.fit, a.test)))
    found = judge(a, b, anywhere, CHAPTERS)
    assert found["cka/z"] > 10
    assert found["procrustes/z"] < -10
    assert align(a, b)["cka"] > 0.3


def test_noise_is_at_chance():
    found, beside = judged((gaussians(1, 200, 48), gaussians(2, 200, 48)))
    assert max(abs(beside[f"{name}/z"]) for name in JUDGED) < 3
    assert found["mutual_knn"] == pytest.approx(10 / 99, abs=0.02)
    assert found["mexa"] < 0.05
    assert beside["cka/low"] < 0 < beside["cka/high"]


def test_what_lengths_alone_give_the_control_by_lengths_gives_too():
    texts, states = known_states.length_only()
    found, surface = judged(states)[0], controls(texts)
    assert found["cka"] > 0.9
    assert found["procrustes"] < 0.35
    assert found["cka"] < surface["length"]["cka"] + 0.05
    assert found["procrustes"] > surface["length"]["procrustes"] - 0.05
    assert surface["n-grams"]["mrr"] < 0.2, "the texts share no n-gram"


def test_what_names_alone_give_the_control_by_n_grams_gives_too():
    texts, states = known_states.names_only()
    found, surface = judged(states)[0], controls(texts)
    assert found["mexa"] > 0.9
    assert surface["n-grams"]["mexa"] > 0.7
    assert surface["n-grams"]["csls_at_1"] > 0.8
    assert surface["length"]["csls_at_1"] < 0.2


def test_one_giant_dimension_hides_an_alignment_is_named_and_standardizing_shows_it():
    giant = known_states.one_giant_dimension()
    a, b = (in_halves(states) for states in giant)
    hidden, shown = align(a, b), align(standardized(a), standardized(b))
    plain = align(*(in_halves(states) for states in known_states.related()))
    assert hidden["procrustes"] > 0.95
    assert abs(hidden["cka"]) < 0.1
    assert shown["cka"] == pytest.approx(plain["cka"], abs=0.1)
    assert shown["mexa"] == pytest.approx(plain["mexa"], abs=0.1)
    dimension, share = largest_dimension(giant.a)
    assert dimension == 7
    assert share > 0.99
    assert largest_dimension(known_states.related().a).share < 0.1


def test_copies_and_rotated_copies_have_the_same_neighbours_and_only_the_former_are_found_without_a_rotation():
    states = with_a_spectrum(0, 200, 48)
    turned = states @ ortho_group.rvs(48, random_state=1)
    copy, rotated = align(halves(states), halves(states)), align(halves(states), halves(turned))
    assert copy["mexa"] == copy["mutual_knn"] == 1
    assert rotated["mutual_knn"] == pytest.approx(1)
    assert rotated["mexa"] < 0.05


def test_mexa_and_mutual_neighbours_are_those_of_their_papers():
    a, b = gaussians(0, 30, 6), gaussians(1, 30, 6)
    b += a
    cosines = np.array([[x @ y / np.sqrt(x @ x * (y @ y)) for y in b] for x in a])
    for i in range(30):
        others = np.delete(np.concatenate([cosines[i], cosines[:, i]]), [i, 30 + i])
        assert exceeds_all(cosines)[i, i] == (cosines[i, i] > others.max())
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    found = NearestNeighbors(n_neighbors=11).fit(unit).kneighbors(unit, return_distance=False)[:, 1:]
    assert all(set(np.flatnonzero(row)) == set(nearest) for row, nearest in zip(neighbours(a), found, strict=True))


def test_neighbours_that_tie_share_the_places_so_that_constant_spaces_are_not_alike():
    tied = neighbours(np.ones((21, 4)))
    assert tied == pytest.approx((1 - np.eye(21)) / 2)
    assert (tied * tied).sum(1) / tied.sum(1) == pytest.approx(0.5), "10 of 20 by chance"


def test_another_order_measures_what_reordered_states_measure_and_counts_what_repeated_ones_do():
    a, b = (in_halves(states) for states in known_states.related())
    pair, fit, test = Pair.of(a, b), ORDERS.fit[0], ORDERS.test[0]
    reordered = align(a, Halves(b.fit[fit], b.test[test]))
    assert pair.measures(fit, test) == pytest.approx({name: reordered[name] for name in JUDGED})
    counts = np.stack([np.ones(100, int), np.repeat([2, 0], 50)])
    resampled = pair.resampled(counts, CHAPTERS)
    plain = align(a, b)
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx({n: plain[n] for n in JUDGED})
    first = Halves(b.fit, b.test[:50])
    assert resampled["procrustes"][1] == pytest.approx(align(Halves(a.fit, a.test[:50]), first)["procrustes"])


def test_a_chapter_drawn_twice_is_not_aligned_with_itself():
    """Resamples that pair the copies of a chapter have a mean CKA far above that of the whole."""
    a, b = (in_halves(states) for states in known_states.topic_only())
    resampled = Pair.of(a, b).resampled(chapter_counts(CHAPTERS, n=1000), CHAPTERS)
    found = align(a, b)
    assert {name: values.mean() for name, values in resampled.items()} == pytest.approx(
        {name: found[name] for name in JUDGED}, abs=0.02
    )


def test_eta_squared_is_the_share_between_languages():
    states = np.stack([gaussians(0, 100, 8), gaussians(1, 100, 8)])
    assert eta_squared(states) < 0.02
    assert eta_squared(states + np.array([[[3.0]], [[-3.0]]])) == pytest.approx(0.9, abs=0.02)
    assert eta_squared(np.stack([np.zeros((5, 3)), np.ones((5, 3))])) == 1
    assert np.isnan(eta_squared(np.ones((2, 5, 3))))
