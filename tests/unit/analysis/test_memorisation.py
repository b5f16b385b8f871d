import numpy as np
import pytest

from genesis_ds.analysis.memorisation import auc_interval, membership_auc


def test_the_area_counts_pairs_and_halves_ties():
    assert membership_auc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == (2 + 1.5) / 4
    assert membership_auc(np.array([0.0]), np.array([1.0, 2.0])) == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_losses_that_are_not_finite_tell_nothing(broken):
    finite, not_finite = np.array([1.0, 2.0]), np.array([1.0, broken])
    for members, others in ((finite, not_finite), (not_finite, finite)):
        auc = membership_auc(members, others)
        assert np.isnan([auc, *auc_interval(auc, 2, 2)]).all()


def test_the_interval_is_that_of_newcombe_and_never_a_single_point():
    low, high = auc_interval(0.5, 64, 64)
    assert (low, high) == pytest.approx((0.400, 0.600), abs=0.003)
    low, high = auc_interval(1.0, 64, 64)
    assert (low, high) == pytest.approx((0.97, 1.0), abs=0.02)
    assert low < 0.99


def test_the_interval_holds_the_true_area_as_often_as_it_says():
    """Normal losses a standard deviation apart: the area is Phi(1 / sqrt 2) = 0.760."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        members, others = generator.normal(size=64), generator.normal(1, size=64)
        low, high = auc_interval(membership_auc(members, others), 64, 64)
        hits += low <= 0.7602 <= high
    assert 0.92 <= hits / 400 <= 0.98
