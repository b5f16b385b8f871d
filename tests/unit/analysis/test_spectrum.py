import numpy as np
import pytest

from genesis_ds.analysis.spectrum import effective_rank


def test_effective_rank_is_the_number_of_equal_directions_and_less_where_they_are_unequal():
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 8)))[0]
    assert effective_rank(axes) == pytest.approx(8)
    assert effective_rank(np.outer(np.arange(1, 9), np.ones(5))) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_rank(axes[:, :3] * shares) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert effective_rank(np.zeros((4, 3))) == 0
