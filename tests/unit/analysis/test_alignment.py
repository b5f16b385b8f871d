import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.stats import ortho_group

from genesis_ds.analysis.alignment import Halves, align, csls_ranks, debiased_cka, held_out_procrustes


def gaussians(seed, n, dim):
    return np.random.default_rng(seed).normal(size=(n, dim))


def halves(states):
    return Halves(states[: len(states) // 2], states[len(states) // 2 :])


def with_a_spectrum(seed, n, dim):
    """States whose directions have unlike variances, so that some components matter more than others."""
    return gaussians(seed, n, dim) * np.geomspace(10, 0.1, dim)


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
    assert held_out_procrustes(Halves(a, a), Halves(b, b)) == pytest.approx(0.30, abs=0.02)
    found = align(halves(a), halves(b))
    assert 1 <= found["procrustes"] < 1.2
    assert found["procrustes"] == pytest.approx(found["procrustes_permuted"], abs=0.05)
    assert found["cka"] == pytest.approx(0, abs=0.02)
    assert found["csls_at_1"] < 0.02
    assert found["mrr"] == pytest.approx(np.log(250) / 250, abs=0.02)


def test_in_sample_the_residual_is_scipys_disparity():
    a, b = gaussians(0, 40, 6), gaussians(1, 40, 6) + 3
    assert held_out_procrustes(Halves(a, a), Halves(b, b)) == pytest.approx(procrustes(a, b)[2])


def test_half_a_shared_signal_lies_between_and_shuffled_pairs_are_at_chance():
    shared = with_a_spectrum(0, 400, 64)
    a, b = (shared + with_a_spectrum(seed, 400, 64) for seed in (1, 2))
    found = align(halves(a), halves(b @ ortho_group.rvs(64, random_state=3)))
    assert 0.3 < found["procrustes"] < 0.95
    assert 0.2 < found["cka"] < 0.8
    assert found["procrustes_permuted"] >= 1


def test_debiased_cka_is_the_ratio_of_unbiased_hsic():
    """Against the estimator as Song et al. (2012) write it down."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        ones = np.ones(n)
        middle = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    a = gaussians(0, 30, 5)
    b = a[:, :3] + gaussians(1, 30, 3)
    k, m = a @ a.T, b @ b.T
    assert debiased_cka(a, b) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_csls_finds_what_a_hub_hides_from_cosines():
    common, states = gaussians(0, 1, 40), gaussians(1, 60, 40)
    a, b = common + states, common + 0.4 * states + 0.9 * gaussians(2, 60, 40)
    b[0] = common
    cosines = np.corrcoef(a, b)[:60, 60:]
    assert (cosines.argmax(1) == 0).mean() > 0.2, "the hub is nearest to many"
    by_cosine, by_csls = cosines.argmax(1) == np.arange(60), csls_ranks(a, b)[:60] == 1
    assert by_csls.mean() > by_cosine.mean() + 0.15


def test_ties_share_their_rank_and_states_that_say_nothing_are_nan():
    assert set(csls_ranks(np.ones((20, 4)), np.ones((20, 4)))) == {10.5}
    same = Halves(np.ones((20, 4)), np.ones((20, 4)))
    broken = Halves(np.full((20, 4), np.nan), np.ones((20, 4)))
    for states in (same, broken):
        assert all(np.isnan(value) for value in align(states, halves(gaussians(0, 40, 4))).values())
